"""Every image file decoded once before training, so that no epoch ends at a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import sha256_file
from .classes import empty_classes, some
from .folder import Files, decode
from .image_set import ImageSet

#: Files that are handed out at once: Ctrl-C waits for these only.
_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Scan:
    """``images`` are those that can be decoded, ``corrupt`` the files that cannot; ``checked``
    counts both. Arrays are taken as they are: none is checked."""

    images: ImageSet
    corrupt: tuple[str, ...]
    checked: int


def scan(
    images: ImageSet, max_corrupt: float, threads: int, progress: Callable[[float], None]
) -> Scan:
    """Decode every file and take its SHA-256, in threads: Pillow holds no lock while it decodes.

    ``max_corrupt`` is the share of files that may be corrupt: one file at least, none at 0.

    Raises:
        UserError: more are, or all of a class.
    """
    if not isinstance(images.source, Files):
        return Scan(images, (), 0)
    paths = images.source.paths
    found: list[bytes | None] = []
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            found += pool.map(_digest, paths[start : start + _AT_ONCE])
            progress(len(found) / len(paths))
    corrupt = tuple(str(path) for path, one in zip(paths, found, strict=True) if one is None)
    allowed = max(1, int(max_corrupt * len(paths))) if max_corrupt > 0 else 0
    if len(corrupt) > allowed or len(corrupt) == len(paths):
        raise UserError(
            f"{images.path}: {len(corrupt)} of {len(paths)} images cannot be decoded, more than "
            f"the {allowed} that --max-corrupt {max_corrupt:g} allows ({some(corrupt)}); mend them "
            "or take them away."
        )
    joined = b"".join(one or bytes(32) for one in found)
    source = Files(paths, np.frombuffer(joined, np.uint8).reshape(-1, 32))
    good = np.flatnonzero([one is not None for one in found])
    left = replace(images, source=source).only(good)
    if lost := empty_classes(left):
        raise UserError(
            f"{images.path / lost[0]}: none of its images can be decoded; mend them, or take the "
            "folder away."
        )
    return Scan(left, corrupt, len(paths))


def _digest(path: Path) -> bytes | None:
    """SHA-256 of a file's bytes; None: it cannot be read or decoded."""
    try:
        decode(path)
        return bytes.fromhex(sha256_file(path))
    except (UserError, OSError):
        return None
