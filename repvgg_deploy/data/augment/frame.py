"""An augmentation as what stands between decoding and normalising."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..pixels import Frame, resize_and_crop
from ..preprocessing import Preprocessing
from .augmentation import Augmentation
from .crops import resized, shifted
from .randaugment import randaugment


def random_frame(augmentation: Augmentation, seed: int, epoch: int, index: int) -> Frame:
    """For the image of number ``index`` in its source: what it draws depends on these alone."""

    def frame(picture: Image.Image, how: Preprocessing) -> Image.Image:
        return _augmented(picture, how, augmentation, np.random.default_rng((seed, epoch, index)))

    return frame


def _augmented(
    picture: Image.Image, how: Preprocessing, chosen: Augmentation, rng: np.random.Generator
) -> Image.Image:
    if chosen.crop == "resized":
        picture = resized(picture, how, rng)
    elif chosen.crop == "shift":
        picture = shifted(picture, how, rng)
    else:
        picture = resize_and_crop(picture, how)
    if chosen.flip and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if chosen.randaugment is not None:
        picture = randaugment(picture, *chosen.randaugment, rng)
    return picture
