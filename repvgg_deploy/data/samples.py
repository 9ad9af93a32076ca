"""Real images for a proof, from a NumPy file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


def load_samples(path: Path, channels: int) -> NDArray[np.float32]:
    """[N, C, H, W] from a ``.npy`` file, or from the array ``x`` of a ``.npz`` file.

    The images have to be preprocessed as the network expects them.

    Raises:
        UserError: no such file, no such array, a wrong shape, no images, NaN or infinity.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            array = content
        else:
            with content:
                array = content["x"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give a .npy or .npz file of images.") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: is no .npy file and no .npz file with an array x ({error}); "
            "save the images with numpy.savez(path, x=images)."
        ) from error
    if array.ndim != 4 or array.shape[1] != channels or len(array) == 0:
        raise UserError(
            f"{path}: holds an array of shape {array.shape}; this network takes images "
            f"[N, {channels}, height, width], at least one."
        )
    if not np.isfinite(array).all():
        raise UserError(f"{path}: holds NaN or infinity; leave those images out.")
    return array.astype(np.float32)
