"""Zip archives that would take far more memory than what such files hold: decompression bombs."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError

#: Below this no expansion is dangerous, so that small files may hold anything.
_HARMLESS = 64_000_000
_MOST_OF_ARRAYS = 200


def check_inflation(path: Path, members: Sequence[zipfile.ZipInfo], most: int) -> None:
    """Refuse an archive by what its directory says, before anything is inflated.

    Members that are stored as they are cannot be more than the file. Deflated ones may be ``most``
    times the file.

    Raises:
        UserError: names the sizes.
    """
    packed = path.stat().st_size
    stored = sum(m.file_size for m in members if m.compress_type == zipfile.ZIP_STORED)
    if stored > packed:
        raise UserError(
            f"{path}: is damaged: its directory lists {size_text(stored)} of stored data, and the "
            f"whole file has {size_text(packed)}; copy or download it again."
        )
    whole = sum(member.file_size for member in members)
    if whole > max(_HARMLESS, most * packed):
        raise UserError(
            f"{path}: would inflate from {size_text(packed)} to {size_text(whole)}, more than "
            f"{most} times, which no real weights or images do; save them again without "
            "compression if that is what they are."
        )


def check_arrays(path: Path) -> None:
    """The same of a NumPy file, where it is a .npz: images in one colour shrink further.

    Raises:
        UserError: names the sizes.
        OSError: it cannot be read.
        zipfile.BadZipFile: it is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_inflation(path, archive.infolist(), _MOST_OF_ARRAYS)


def too_large(path: Path) -> UserError:
    """Reading ``path`` took more memory than there was."""
    return UserError(
        f"{path}: does not fit into the memory of this machine (the file has "
        f"{size_text(path.stat().st_size)}); use a machine with more, or end what else runs on "
        "this one."
    )


def size_text(size: float) -> str:
    """``33.2 MB`` (decimal, as file managers count)."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
