"""From the pixels of an image to the input of a network: what is done, as a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

#: Pillow's filters by the names that training code has for them.
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "box")
#: Pixels a side; beyond this a number is a slip of the finger.
LARGEST_SIDE = 16_384

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR_10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # of the 50,000 for training
_FASHION_MNIST = ((0.2860,), (0.3530,))  # as in data/fashion_mnist.py, which needs numpy


@dataclass(frozen=True)
class Preprocessing:
    """The steps in their order, as torchvision has them; every image becomes float32 [C, H, W].

    ``channels`` 3: RGB, 1: grey; None: the arrays are preprocessed already and taken as they are.
    ``resize``: the shorter side in pixels, or (height, width). ``crop``: (height, width) from the
    centre, padded with black where the image is smaller. Then (pixel / 255 - ``mean``) / ``std``,
    a value for each channel.

    Raises:
        ValueError: a setting that is none; says which.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    channels: int | None = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (self.resize is None or _is_side(self.resize) or _is_size(self.resize)):
            raise ValueError(f"resize {self.resize!r} is no image size")
        if not (self.crop is None or _is_size(self.crop)):
            raise ValueError(f"crop {self.crop!r} is no image size")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is not known")
        if self.channels not in (1, 3, None) or isinstance(self.channels, bool | float):
            raise ValueError(f"channels {self.channels!r} is neither 1 nor 3")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) != (self.channels or 0):
                raise ValueError(f"{name} {values!r} is not one number for each channel")
            if not all(isinstance(v, float) and math.isfinite(v) for v in values):
                raise ValueError(f"{name} {values!r} is not made of finite numbers")
        if min(self.std, default=1) <= 0:
            raise ValueError(f"std {self.std!r} is not above 0")
        if self.ready and (self.resize, self.crop) != (None, None):
            raise ValueError("images that are preprocessed already are neither resized nor cropped")

    @property
    def ready(self) -> bool:
        """Whether it is for arrays that are preprocessed already."""
        return self.channels is None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what it gives; None where that is as the images are."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def changed(self, settings: Mapping[str, Any]) -> Preprocessing:
        """With other ``settings``; a single mean or std is that of every channel.

        Raises:
            ValueError: a setting that is none, or that does not go with the others.
        """
        wanted = {**vars(self), **settings}
        for name in ("mean", "std"):
            if len(wanted[name]) == 1 and wanted["channels"]:
                wanted[name] *= wanted["channels"]
        return replace(self, **wanted)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @staticmethod
    def from_dict(data: object) -> Preprocessing:
        """What ``to_dict`` made and JSON kept.

        Raises:
            ValueError: anything else; says what is wrong.
        """
        names = {field.name for field in fields(Preprocessing)}
        if not isinstance(data, dict) or set(data) != names:
            raise ValueError(f"it does not consist of {', '.join(sorted(names))}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return Preprocessing(**values)

    def differences(self, other: Preprocessing) -> list[str]:
        """What differs, in words: ``crop 224x224, not 192x192``."""
        if self.ready != other.ready:
            return [f"{self}, not {other}"]
        return [
            f"{name} {_words(value)}, not {_words(getattr(other, name))}"
            for name, value in vars(self).items()
            if value != getattr(other, name)
        ]

    def __str__(self) -> str:
        if self.ready:
            return "preprocessed already"
        shorter = "shorter side " if isinstance(self.resize, int) else ""
        resized = f"{shorter}resized to {_words(self.resize)} ({self.interpolation})"
        parts = [
            "" if self.resize is None else resized,
            "" if self.crop is None else f"centre crop {_words(self.crop)}",
            "RGB" if self.channels == 3 else "grey",
            f"mean {_words(self.mean)}",
            f"std {_words(self.std)}",
        ]
        return ", ".join(filter(None, parts))


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIDE


def _is_size(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_side, value))


def _words(value: object) -> str:
    """``256``, ``224x224``, ``0.485 0.456 0.406``, ``none``"""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ("x" if _is_size(value) else " ").join(map(str, value))
    return str(value)


#: Of arrays that are preprocessed already, which nobody can tell from the arrays.
READY = Preprocessing(channels=None)

PRESETS = {
    "imagenet": Preprocessing(256, (224, 224), "bilinear", 3, *_IMAGENET),
    # Every pixel doubled, as data/fashion_mnist.py has it: the bundled network's.
    "fashion-mnist": Preprocessing((56, 56), None, "nearest", 1, *_FASHION_MNIST),
    # A black border of 2 px around the 28; the networks of docs/demo-checkpoint.
    "fashion-mnist-32": Preprocessing(
        None, (32, 32), "bilinear", 3, *(values * 3 for values in _FASHION_MNIST)
    ),
    "cifar-10": Preprocessing(None, (32, 32), "bilinear", 3, *_CIFAR_10),
    "none": READY,
}
