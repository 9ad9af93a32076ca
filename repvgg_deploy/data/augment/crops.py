"""Random parts of a picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..pixels import resize_and_crop
from ..preprocessing import Preprocessing
from .augmentation import output_size

#: Of RandomResizedCrop: share of the area, width / height, and how often a part is drawn that may
#: not fit.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def shifted(picture: Image.Image, how: Preprocessing, rng: np.random.Generator) -> Image.Image:
    """What evaluation sees, moved by up to an eighth of its sides: padded by that and cropped."""
    picture = resize_and_crop(picture, how)
    width, height = picture.size
    left = int(rng.integers(-(width // 8), width // 8 + 1))
    top = int(rng.integers(-(height // 8), height // 8 + 1))
    return picture.crop((left, top, left + width, top + height))  # black beyond the picture


def resized(picture: Image.Image, how: Preprocessing, rng: np.random.Generator) -> Image.Image:
    """A random part, resized to the size that evaluation sees.

    Raises:
        ValueError: ``how`` gives pictures of no one size.
    """
    size = output_size(how)
    if size is None:
        raise ValueError("pictures of no one size")
    left, top, width, height = random_part(*picture.size, rng)
    part = picture.crop((left, top, left + width, top + height))
    return part.resize((size[1], size[0]), Image.Resampling[how.interpolation.upper()])


def random_part(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height), as torchvision's RandomResizedCrop draws it: where no part of ten
    fits, as in a sliver, the largest in the middle whose ratio is allowed."""
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return int(left), int(top), w, h
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    return (width - w) // 2, (height - h) // 2, w, h
