"""RandAugment (Cubuk et al., arXiv 1909.13719): operations of one magnitude, picked at random.

Pillow does the work. The paper leaves the strengths to AutoAugment (arXiv 1805.09501, table 6);
those below are torchvision's, which has 0 as no change and 10 as the strongest for every operation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .augmentation import LARGEST_MAGNITUDE

#: At the largest magnitude: degrees, pixels a pixel, share of the side, change of a factor of 1,
#: bits that go.
_DEGREES, _SHEAR, _SHARE, _FACTOR, _BITS = 30.0, 0.3, 150 / 331, 0.9, 4


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """``matrix`` (a, b, c, d, e, f) takes the pixel (x, y) from (ax + by + c, dx + ey + f)."""
    bilinear = Image.Resampling.BILINEAR
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, bilinear)


def shear_x(picture: Image.Image, s: float) -> Image.Image:
    return _moved(picture, (1, s * _SHEAR, 0, 0, 1, 0))


def shear_y(picture: Image.Image, s: float) -> Image.Image:
    return _moved(picture, (1, 0, 0, s * _SHEAR, 1, 0))


def translate_x(picture: Image.Image, s: float) -> Image.Image:
    return _moved(picture, (1, 0, round(s * _SHARE * picture.width), 0, 1, 0))


def translate_y(picture: Image.Image, s: float) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0, 1, round(s * _SHARE * picture.height)))


def rotate(picture: Image.Image, s: float) -> Image.Image:
    return picture.rotate(s * _DEGREES, Image.Resampling.BILINEAR)


def color(picture: Image.Image, s: float) -> Image.Image:
    return ImageEnhance.Color(picture).enhance(1 + s * _FACTOR)


def contrast(picture: Image.Image, s: float) -> Image.Image:
    return ImageEnhance.Contrast(picture).enhance(1 + s * _FACTOR)


def brightness(picture: Image.Image, s: float) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(1 + s * _FACTOR)


def sharpness(picture: Image.Image, s: float) -> Image.Image:
    return ImageEnhance.Sharpness(picture).enhance(1 + s * _FACTOR)


def posterize(picture: Image.Image, s: float) -> Image.Image:
    return ImageOps.posterize(picture, 8 - round(abs(s) * _BITS))


def solarize(picture: Image.Image, s: float) -> Image.Image:
    return ImageOps.solarize(picture, round(256 * (1 - abs(s))))


def autocontrast(picture: Image.Image, s: float) -> Image.Image:
    return ImageOps.autocontrast(picture)


def equalize(picture: Image.Image, s: float) -> Image.Image:
    return ImageOps.equalize(picture)


def identity(picture: Image.Image, s: float) -> Image.Image:
    return picture


#: The paper's fourteen. Each takes a strength from -1 to 1, whose sign is a direction where there
#: is one.
OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    identity, autocontrast, equalize, rotate, solarize, color, posterize,
    contrast, brightness, sharpness, shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip


def randaugment(
    picture: Image.Image, count: int, magnitude: int, rng: np.random.Generator
) -> Image.Image:
    """``count`` operations, drawn with repetition, each in one of its two directions."""
    for number in rng.integers(0, len(OPERATIONS), count).tolist():
        strength = magnitude / LARGEST_MAGNITUDE
        picture = OPERATIONS[number](picture, strength if rng.random() < 0.5 else -strength)
    return picture
