"""Training images that are kept back to validate on."""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from .image_set import ImageSet


def hold_back(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The images without a ``share`` of each class, and that share, drawn from ``seed``.

    Every class keeps an image to train on.

    Raises:
        UserError: images without labels, or so few that the share is none.
    """
    if images.labels is None:
        raise UserError(
            f"{images.path}: its images have no labels to validate by; leave out --hold-out."
        )
    rng = np.random.default_rng(seed)
    held = np.zeros(len(images), bool)
    for label in np.unique(images.labels):
        places = rng.permutation(np.flatnonzero(images.labels == label))
        count = min(len(places) - 1, round(share * len(places)))
        held[places[:count]] = True
    if not held.any():
        raise UserError(
            f"--hold-out {share:g}: is less than one image of every class of {images.path}; give "
            "more, or other images with --val."
        )
    return images.only(np.flatnonzero(~held)), images.only(np.flatnonzero(held))
