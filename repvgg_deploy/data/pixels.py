"""A picture, as Pillow decoded it, to the input of a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from .preprocessing import Preprocessing

#: From a picture in the wanted colours to the part of it, in the size, that a network sees.
Frame = Callable[[Image.Image, Preprocessing], Image.Image]

#: A picture that is much longer than wide grows by its shorter side.
_LARGEST_RESIZED = 1 << 26


def resize_and_crop(picture: Image.Image, how: Preprocessing) -> Image.Image:
    """The part of a picture that evaluation sees, as torchvision's Resize and CenterCrop have it.

    Raises:
        UserError: it would be resized to more than a picture has.
    """
    if how.resize is not None:
        width, height = _target(picture, how.resize)
        if width * height > _LARGEST_RESIZED:
            raise UserError(
                f"a picture of {picture.height}x{picture.width} pixels would be resized to "
                f"{height}x{width}; leave it out, or give --resize HEIGHTxWIDTH."
            )
        picture = picture.resize((width, height), Image.Resampling[how.interpolation.upper()])
    if how.crop is not None:
        height, width = how.crop
        left, top = _start(picture.width, width), _start(picture.height, height)
        picture = picture.crop((left, top, left + width, top + height))  # black where beyond it
    return picture


def to_input(
    picture: Image.Image, how: Preprocessing, frame: Frame = resize_and_crop
) -> NDArray[np.float32]:
    """[C, H, W], normalised; training has a ``frame`` of its own, which augments.

    Raises:
        UserError: as ``frame``.
    """
    picture = picture.convert("RGB")  # a grey one three times over
    if how.channels == 1:
        picture = picture.convert("L")
    picture = frame(picture, how)
    scaled = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1) / 255
    normal = (scaled - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _target(picture: Image.Image, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height); the longer side is cut to whole pixels, not rounded."""
    width, height = picture.size
    if isinstance(resize, tuple):
        return resize[1], resize[0]
    if width < height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def _start(side: int, crop: int) -> int:
    """Where a centre crop begins, below 0 where it is larger than the picture."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)
