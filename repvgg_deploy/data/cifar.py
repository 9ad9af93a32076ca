"""CIFAR-10 (Krizhevsky, 2009) in its binary version: 3073 bytes a record, which are the label and
the planes R, G and B of 32x32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import read_error
from .arrays import Pixels
from .source import Labelled

#: What the labels 0 to 9 mean (batches.meta.txt).
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
#: --split -> its files, all of which are needed.
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE
#: Bytes of one file; those of CIFAR-10 have 30,730,000.
_LARGEST = 1 << 30


def cifar_splits(folder: Path) -> list[str]:
    """The splits of which a folder holds a file; none: it is no folder of CIFAR-10."""
    return [split for split, names in FILES.items() if any((folder / n).is_file() for n in names)]


def open_cifar(folder: Path, split: str | None) -> Labelled:
    """The images of a split; None where the folder holds one split only.

    Raises:
        UserError: no or several splits fit, a file is missing, cut off or cannot be read, or a
            label is above 9.
    """
    found = cifar_splits(folder)
    if split is None and len(found) > 1:
        raise UserError(f"{folder}: holds both splits of CIFAR-10; pick one with --split.")
    picked = split or found[0]
    for name in FILES[picked]:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: holds no {name}, which the {picked} split of CIFAR-10 needs; unpack "
                "cifar-10-binary.tar.gz again."
            )
    records = np.concatenate([_records(folder / name) for name in FILES[picked]])
    planes = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    pixels = Pixels(folder, np.ascontiguousarray(np.moveaxis(planes, 1, 3)))
    return Labelled(pixels, records[:, 0].astype(np.int64), _classes(folder))


def _records(path: Path) -> NDArray[np.uint8]:
    """[N, 3073]"""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise UserError(
                f"{path}: has {size} bytes, more than a batch of CIFAR-10 has; fetch it again."
            )
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise read_error(path, error) from error
    if len(content) == 0 or len(content) % _RECORD:
        raise UserError(
            f"{path}: is cut off in record {len(content) // _RECORD} (a record has {_RECORD} "
            "bytes); fetch it again."
        )
    records = content.reshape(-1, _RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if len(wrong):
        raise UserError(
            f"{path}: record {wrong[0]} has label {records[wrong[0], 0]}, and CIFAR-10 has 0 to 9; "
            "fetch it again (CIFAR-100 is not read)."
        )
    return records


def _classes(folder: Path) -> tuple[str, ...]:
    path = folder / "batches.meta.txt"
    if not path.is_file():
        return CLASSES
    try:
        with path.open(encoding="utf-8") as stream:
            names = tuple(stream.read(1 << 16).split())
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text; fetch it again, or take it away.") from error
    except OSError as error:
        raise read_error(path, error) from error
    if len(names) != len(CLASSES):
        raise UserError(
            f"{path}: names {len(names)} classes, not {len(CLASSES)}; fetch it again, or take it "
            "away."
        )
    return names
