"""Images in memory or in a NumPy file: bytes, which are pixels, or floats, which are inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from .labels import check_labels
from .numpy_files import read_arrays
from .pixels import Frame, resize_and_crop, to_input
from .preprocessing import Preprocessing
from .source import Labelled, Source


@dataclass(frozen=True)
class Pixels:
    """Bytes [N, H, W] or [N, H, W, 3], of the file at ``path``."""

    path: Path
    array: NDArray[np.uint8]
    ready = False

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"{self.path}: image {index}"

    def load(
        self, index: int, how: Preprocessing, frame: Frame = resize_and_crop
    ) -> NDArray[np.float32]:
        try:
            picture = Image.fromarray(np.ascontiguousarray(self.array[index]))
            return to_input(picture, how, frame)
        except UserError as error:
            raise UserError(f"{self.name(index)}: {error}") from error

    def sha256(self, index: int) -> str:
        return _sha256(self.array[index])


@dataclass(frozen=True)
class Inputs:
    """Floats [N, C, H, W], preprocessed already, of the file at ``path``."""

    path: Path
    array: NDArray[np.floating[Any]]
    ready = True

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"{self.path}: image {index}"

    def load(
        self, index: int, how: Preprocessing, frame: Frame = resize_and_crop
    ) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinity
            image = self.array[index].astype(np.float32)
        if not np.isfinite(image).all():
            raise UserError(f"{self.name(index)}: holds NaN or infinity; leave it out.")
        return np.asarray(image)

    def sha256(self, index: int) -> str:
        return _sha256(self.array[index])


def open_arrays(path: Path) -> Labelled:
    """The images ``x`` or ``images`` of a .npz file and its labels ``y`` or ``labels``, if it has
    them; or the images of a .npy file.

    Raises:
        UserError: no such file, or arrays that are no images or no labels.
    """
    images, labels = read_arrays(path, [("x", "images"), ("y", "labels")])
    assert images is not None  # the first is there
    source = _as_images(path, images)
    return Labelled(source, None if labels is None else check_labels(labels, len(source), path))


def _as_images(path: Path, array: NDArray[Any]) -> Source:
    if array.ndim in (3, 4) and 0 in array.shape:
        raise UserError(f"{path}: holds no images (an array of shape {array.shape}).")
    if array.dtype.kind == "f" and array.ndim == 4:
        return Inputs(path, array)
    if array.dtype == np.uint8 and array.ndim == 3:
        return Pixels(path, array)
    if array.dtype == np.uint8 and array.ndim == 4:
        last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
        if last != first:
            return pixels_last(path, array if last else np.moveaxis(array, 1, 3))
    raise UserError(
        f"{path}: holds {array.dtype} of shape {array.shape}; images are uint8 [N, H, W], "
        "[N, H, W, C] or [N, C, H, W] with C of 1 or 3 (and only one such side), or floats "
        "[N, C, H, W] that are preprocessed already."
    )


def pixels_last(path: Path, array: NDArray[np.uint8]) -> Pixels:
    """Of bytes [N, H, W, C]."""
    return Pixels(path, array[..., 0] if array.shape[3] == 1 else array)


def _sha256(array: NDArray[Any]) -> str:
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()
