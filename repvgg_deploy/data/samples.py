"""Real images for a proof, from a NumPy file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .numpy_files import read_arrays


def load_samples(path: Path, channels: int) -> NDArray[np.float32]:
    """[N, C, H, W] from a ``.npy`` file, or from the array ``x`` of a ``.npz`` file.

    The images have to be preprocessed as the network expects them.

    Raises:
        UserError: no such file, no such array, a wrong shape, no images, NaN or infinity, or images
            of one colour, on which most weights have no effect.
    """
    (array,) = read_arrays(path, [("x",)])
    assert array is not None  # the first is there
    if array.ndim != 4 or array.shape[1] != channels or len(array) == 0:
        raise UserError(
            f"{path}: holds an array of shape {array.shape}; this network takes images "
            f"[N, {channels}, height, width], at least one."
        )
    if not np.isfinite(array).all():
        raise UserError(f"{path}: holds NaN or infinity; leave those images out.")
    if (array == array[:, :, :1, :1]).all() and array[0, 0].size > 1:
        raise UserError(f"{path}: every image is of one colour, which proves nothing; give others.")
    return array.astype(np.float32)
