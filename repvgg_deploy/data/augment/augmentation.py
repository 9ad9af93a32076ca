"""Which augmentation, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..preprocessing import Preprocessing

Crop = Literal["none", "shift", "resized"]
CROPS: tuple[Crop, ...] = ("none", "shift", "resized")
#: RandAugment's largest magnitude, as in its paper.
LARGEST_MAGNITUDE = 10
#: More operations on one picture leave nothing of it.
MOST_OPERATIONS = 14


@dataclass(frozen=True)
class Augmentation:
    """Random ``crop``, then ``flip`` from left to right of every second picture, then
    ``randaugment``: number of operations and their magnitude, 0 to 10.

    A crop ``shift`` moves the picture that evaluation sees by up to an eighth of its sides (4 of
    32 pixels; He et al., arXiv 1512.03385, section 4.2), black where nothing is. ``resized`` takes
    8 to 100 % of the area at a ratio of 3/4 to 4/3 (torchvision's RandomResizedCrop; Szegedy et
    al., arXiv 1409.4842, section 6).

    Raises:
        ValueError: a setting that is none; says which.
    """

    flip: bool = False
    crop: Crop = "none"
    randaugment: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop {self.crop!r} is none of {', '.join(CROPS)}")
        if self.randaugment is not None:
            count, magnitude = self.randaugment
            if not (1 <= count <= MOST_OPERATIONS and 0 <= magnitude <= LARGEST_MAGNITUDE):
                raise ValueError(
                    f"randaugment {count} x {magnitude} is not 1 to {MOST_OPERATIONS} operations "
                    f"of magnitude 0 to {LARGEST_MAGNITUDE}"
                )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        randaugment = None if self.randaugment is None else list(self.randaugment)
        return {**asdict(self), "randaugment": randaugment}

    def __str__(self) -> str:
        crops = {
            "none": "",
            "shift": "shifted by up to an eighth",
            "resized": "8 to 100 % of the area, resized",
        }
        parts = [crops[self.crop], "flipped" if self.flip else ""]
        if self.randaugment is not None:
            parts.append("RandAugment of {} operations, magnitude {}".format(*self.randaugment))
        return ", ".join(filter(None, parts)) or "none"


#: Training sees what evaluation sees.
NONE = Augmentation()


def default_augmentation(how: Preprocessing) -> Augmentation:
    """What is common for such preprocessing: ``resized`` where a shorter side is resized and then
    cropped, as for ImageNet, else ``shift``; both flip. None for what is preprocessed already."""
    if how.ready:
        return NONE
    like_imagenet = isinstance(how.resize, int) and how.crop is not None
    return Augmentation(flip=True, crop="resized" if like_imagenet else "shift")


def output_size(how: Preprocessing) -> tuple[int, int] | None:
    """(height, width) of every picture after preprocessing; None: it depends on the picture."""
    return how.crop or (how.resize if isinstance(how.resize, tuple) else None)
