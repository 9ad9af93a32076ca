"""Class indices, one for each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

#: No network has as many classes.
_MOST_CLASSES = 1 << 24


def check_labels(labels: NDArray[Any], images: int, path: Path) -> NDArray[np.int64]:
    """[N] as int64.

    Raises:
        UserError: another shape or number than the images', or values that are no class indices.
    """
    if labels.shape != (images,):
        raise UserError(
            f"{path}: holds labels of shape {labels.shape} for {images} images; give one label for "
            "each image."
        )
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"{path}: its labels are no class indices (integers from 0 on; these are of type "
            f"{labels.dtype}, {labels.min()} to {labels.max()})."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= _MOST_CLASSES))
    if len(wrong):
        raise UserError(
            f"{path}: its labels are no class indices (integers from 0 on; that of image "
            f"{wrong[0]} is {labels[wrong[0]]})."
        )
    return labels.astype(np.int64)
