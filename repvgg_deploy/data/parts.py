"""Where the images to train on and those to validate on lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from .cifar import cifar_splits
from .folder import TRAIN_FOLDERS, VAL_FOLDERS
from .idx import holds_idx, idx_splits, is_idx

Kind = Literal["folder", "idx", "cifar-10", "array"]


@dataclass(frozen=True)
class Part:
    """A path and a split as ``open_images`` takes them."""

    path: Path
    split: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.split is None else f"the {self.split} split of {self.path}"


@dataclass(frozen=True)
class Parts:
    """``val`` None: a data set without one."""

    kind: Kind
    train: Part
    val: Part | None


def find_parts(path: Path) -> Parts:
    """Of a data set as it is published: train/ and val/ beside one another, IDX files and CIFAR-10
    of both splits; else all of it is for training.

    Raises:
        UserError: no such path, a folder that cannot be read, or one without a training part.
    """
    if not path.is_dir():
        return Parts("idx" if is_idx(path) else "array", Part(path), None)
    try:
        if holds_idx(path):
            return _of_splits("idx", path, idx_splits(path))
        if splits := cifar_splits(path):
            return _of_splits("cifar-10", path, splits)
        inside = {e.name: e for e in path.iterdir() if e.is_dir() and not e.name.startswith(".")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if not inside or not {*TRAIN_FOLDERS, *VAL_FOLDERS}.issuperset(inside):
        return Parts("folder", Part(path), None)
    train, val = (
        [inside[n] for n in names if n in inside] for names in (TRAIN_FOLDERS, VAL_FOLDERS)
    )
    if not train:
        raise UserError(
            f"{path}: holds {', '.join(sorted(inside))} and no folder train; name the folder of "
            "the training images."
        )
    return Parts("folder", Part(train[0]), Part(val[0]) if val else None)


def find_val(path: Path) -> Part:
    """The images of ``--val``: the test split where there is one, else all of it."""
    if path.is_dir():
        parts = find_parts(path)
        if parts.kind in ("idx", "cifar-10"):
            return parts.val or parts.train
    return Part(path)


def _of_splits(kind: Kind, folder: Path, splits: list[str]) -> Parts:
    if "train" in splits:
        return Parts(
            kind, Part(folder, "train"), Part(folder, "test") if "test" in splits else None
        )
    return Parts(kind, Part(folder), None)
