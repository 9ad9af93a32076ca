"""Labels in a file of their own: .npy, .npz, IDX, or text with a number a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import read_error
from .idx import is_idx, read_idx
from .labels import check_labels
from .numpy_files import read_arrays

#: Bytes; a label a line for every image of the largest data sets takes less.
_LARGEST_TEXT = 1 << 28


def read_labels(path: Path, images: int) -> NDArray[np.int64]:
    """A label for each image in the order of the images, which is that of their names in folders.

    Raises:
        UserError: no such file, another kind of file, or not one class index for each image.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file; give a file of labels.")
    if is_idx(path):
        return check_labels(read_idx(path), images, path)
    if path.suffix in (".npy", ".npz"):
        (array,) = read_arrays(path, [("y", "labels")])
        assert array is not None  # the first is there
        return check_labels(array, images, path)
    return check_labels(_read_numbers(path), images, path)


def _read_numbers(path: Path) -> NDArray[np.int64]:
    try:
        with path.open("rb") as stream:
            lines = stream.read(_LARGEST_TEXT).splitlines()
        return np.array([int(line) for line in lines], np.int64)
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: is no file of labels; give .npy, .npz with an array y, IDX, or text with one "
            "class index a line."
        ) from error
