"""IDX files, as MNIST and its kin have them: images, and labels beside them by name."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .arrays import Pixels, pixels_last
from .labels import check_labels
from .source import Labelled

#: train-images-idx3-ubyte.gz; some unpackers write a dot before idx3.
_IMAGES = re.compile(r"(?P<set>.*)images(?P<mark>[-.]idx)[34](?P<end>-ubyte(\.gz)?)$")
_IDX = re.compile(r".*[-.]idx\d-ubyte(\.gz)?$")
#: --split -> what stands in the names of its files.
SPLITS = {"train": ("train",), "test": ("t10k", "test")}
#: Bytes of values in one file.
_LARGEST = 1 << 32
_BLOCK = 1 << 20


def is_idx(path: Path) -> bool:
    """By the name."""
    return _IDX.match(path.name) is not None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes, .gz or not: magic 00 00 08 <ndim>, big-endian dims, then the values.

    Raises:
        UserError: it cannot be read, is no IDX file of bytes, is cut off, or holds too much.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return _read(cast(BinaryIO, stream), path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is damaged or cut off ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def _read(stream: BinaryIO, path: Path) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or magic[3] not in (1, 3, 4):
        raise UserError(
            f"{path}: is no IDX file of images or labels in bytes (it begins with {magic.hex()})."
        )
    shape = [int.from_bytes(stream.read(4), "big") for _ in range(magic[3])]
    wanted = prod(shape)
    if wanted > _LARGEST:
        raise UserError(f"{path}: claims {wanted} bytes of values, more than is read here.")
    values = b"".join(_blocks(stream, wanted))
    if len(values) != wanted or stream.read(1):
        raise UserError(
            f"{path}: holds {'fewer' if len(values) < wanted else 'more'} values than the "
            f"{'x'.join(map(str, shape))} it claims; fetch it again."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _blocks(stream: BinaryIO, wanted: int) -> Iterator[bytes]:
    """No memory is taken for what is claimed but not there."""
    while wanted > 0 and (block := stream.read(min(wanted, _BLOCK))):
        wanted -= len(block)
        yield block


def holds_idx(folder: Path) -> bool:
    """Whether a folder holds IDX files."""
    return any(is_idx(path) for path in folder.iterdir())


def open_idx(path: Path, split: str | None) -> Labelled:
    """An images file, or the one in a folder; labels from the file beside it, if there is one.

    ``split`` (a key of SPLITS) picks one of several in a folder.

    Raises:
        UserError: none or several fit, or a file cannot be used.
    """
    file = _pick(path, split) if path.is_dir() else path
    match = _IMAGES.match(file.name)
    if match is None:
        raise UserError(f"{file}: is no IDX file of images by its name; name the images file.")
    images = read_idx(file)
    if images.ndim == 1 or 0 in images.shape or images.shape[3:] not in ((), (1,), (3,)):
        raise UserError(f"{file}: holds no images, [N, H, W], but an array of {images.shape}.")
    source = Pixels(file, images) if images.ndim == 3 else pixels_last(file, images)
    base = f"{match['set']}labels{match['mark']}1{match['end']}".removesuffix(".gz")
    for beside in (file.with_name(base), file.with_name(f"{base}.gz")):
        if beside.is_file():
            return Labelled(source, check_labels(read_idx(beside), len(source), beside))
    return Labelled(source)


def idx_splits(folder: Path) -> list[str]:
    """The keys of SPLITS of which a folder holds images."""
    names = [path.name for path in folder.iterdir() if _IMAGES.match(path.name)]
    return [
        split for split, parts in SPLITS.items() if any(p in name for p in parts for name in names)
    ]


def _pick(folder: Path, split: str | None) -> Path:
    """The images file of a folder; unpacked ones go before packed ones of the same name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _IMAGES.match(path.name)
        wanted = split is None or any(part in path.name for part in SPLITS[split])
        if match and wanted:
            found.setdefault(match["set"], path)
    if len(found) == 1:
        return found.popitem()[1]
    if not found:
        which = "" if split is None else f" of the {split} split"
        raise UserError(f"{folder}: holds no IDX images file{which}; name the file.")
    names = ", ".join(path.name for path in found.values())
    raise UserError(f"{folder}: holds {names}; pick one with --split, or name the file.")
