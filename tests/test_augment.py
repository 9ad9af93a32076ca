"""Augmentation: by hand where a hand can, and against Pillow where Pillow does the work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from repvgg_deploy.data.augment import randaugment as ops
from repvgg_deploy.data.augment.augmentation import (
    NONE,
    Augmentation,
    default_augmentation,
    output_size,
)
from repvgg_deploy.data.augment.crops import random_part, resized, shifted
from repvgg_deploy.data.augment.frame import random_frame
from repvgg_deploy.data.augment.randaugment import OPERATIONS, randaugment
from repvgg_deploy.data.pixels import to_input
from repvgg_deploy.data.preprocessing import PRESETS, Preprocessing

GREY = Preprocessing(channels=1, mean=(0.0,), std=(1.0,))
RGB = Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


def picture(height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> Image.Image:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


class Scripted(np.random.Generator):
    """Gives what is written down, in its order."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = list(values)

    def integers(self, low: int, high: int, size: int | None = None) -> object:  # type: ignore[override]
        if size is not None:
            return np.array([self.integers(low, high) for _ in range(size)])
        value = self.values.pop(0)
        assert low <= value < high
        return value

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        assert low <= self.values[0] <= high
        return self.values.pop(0)

    def random(self) -> float:  # type: ignore[override]
        return self.values.pop(0)


# Crops and flips


def test_a_shift_by_hand() -> None:
    """8x8 of the numbers 1 to 64: up to one pixel; by (-1, +1) the left column and the bottom row
    are black."""
    numbers = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    moved = np.asarray(shifted(Image.fromarray(numbers), GREY, Scripted(-1, 1)))
    assert moved[:7, 1:].tolist() == numbers[1:, :7].tolist()
    assert not moved[:, 0].any()
    assert not moved[7].any()
    still = shifted(Image.fromarray(numbers), GREY, Scripted(0, 0))
    assert np.asarray(still).tolist() == numbers.tolist()


def test_shifts_reach_an_eighth_of_each_side() -> None:
    """One white pixel in the middle of 16x32 is found at 4 x 2 pixels around it only."""
    dot = np.zeros((16, 32), np.uint8)
    dot[8, 16] = 255
    places = set()
    for seed in range(600):
        moved = np.asarray(shifted(Image.fromarray(dot), GREY, np.random.default_rng(seed)))
        places |= set(zip(*(axis.tolist() for axis in moved.nonzero()), strict=True))
    assert places == {(y, x) for y in range(6, 11) for x in range(12, 21)}


def test_a_shift_moves_what_evaluation_sees() -> None:
    """28 px in a border of 2 as evaluation has it, then by (4, 4)."""
    bordered = np.pad(np.asarray(picture(28, 28)), ((2, 2), (2, 2), (0, 0)))
    moved = np.asarray(shifted(picture(28, 28), PRESETS["fashion-mnist-32"], Scripted(4, 4)))
    assert np.array_equal(moved, np.pad(bordered[4:, 4:], ((0, 4), (0, 4), (0, 0))))


def test_a_random_part_by_hand() -> None:
    """A quarter of 20x20 at ratio 1 is 10x10; from (3, 7) on."""
    part = random_part(20, 20, Scripted(100 / 400, 0.0, 3, 7))
    assert part == (3, 7, 10, 10)
    how = RGB.changed({"resize": 24, "crop": (6, 5), "interpolation": "bicubic"})
    whole = picture(20, 20)
    ours = resized(whole, how, Scripted(100 / 400, 0.0, 3, 7))
    pillow = whole.crop((3, 7, 13, 17)).resize((5, 6), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(ours), np.asarray(pillow))


@pytest.mark.parametrize("size", [(40, 40), (300, 20), (20, 300), (1, 1), (1, 500)])
def test_random_parts_lie_inside(size: tuple[int, int]) -> None:
    parts = {random_part(*size, np.random.default_rng(seed)) for seed in range(200)}
    for left, top, width, height in parts:
        assert left >= 0 and top >= 0 and width > 0 and height > 0
        assert left + width <= size[0] and top + height <= size[1]
    if size == (40, 40):
        areas = [width * height / 1600 for _, _, width, height in parts]
        assert 0.06 < min(areas) < 0.15 and 0.8 < max(areas) <= 1
        assert all(0.7 < width / height < 1.43 for _, _, width, height in parts)
    if size == (300, 20):  # too long for most parts: the middle one at the ratio that is allowed
        assert max(width for _, _, width, _ in parts) == 27


@pytest.mark.parametrize("how", [GREY, RGB])
def test_a_flip_is_from_left_to_right_and_every_second_time(how: Preprocessing) -> None:
    plain = to_input(picture(), how)
    flips = 0
    for index in range(200):
        seen = to_input(picture(), how, random_frame(Augmentation(flip=True), 0, 0, index))
        flipped = np.array_equal(seen, plain[:, :, ::-1])
        assert flipped or np.array_equal(seen, plain)
        flips += flipped
    assert 70 < flips < 130


# What is off, what is drawn


@pytest.mark.parametrize("name", [name for name, how in PRESETS.items() if not how.ready])
def test_off_is_exactly_what_evaluation_sees(name: str) -> None:
    how = PRESETS[name]
    for size in ((28, 28), (70, 50)):
        plain = to_input(picture(*size), how)
        assert np.array_equal(to_input(picture(*size), how, random_frame(NONE, 1, 2, 3)), plain)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["none", "shift", "resized"])
def test_what_is_drawn_depends_on_seed_epoch_and_image(channels: int, crop: str) -> None:
    how = (GREY if channels == 1 else RGB).changed({"resize": 36, "crop": (32, 32)})
    chosen = Augmentation(True, crop, (3, 9))  # type: ignore[arg-type]

    def seen(*key: int) -> bytes:
        image = to_input(picture(40, 44), how, random_frame(chosen, *key))
        assert image.shape == (channels, 32, 32)
        assert image.dtype == np.float32
        return image.tobytes()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (5, 6, 7)]
    assert [seen(*key) for key in keys] == [seen(*key) for key in keys]
    assert len({seen(*key) for key in keys}) == len(keys)


def test_defaults() -> None:
    assert default_augmentation(PRESETS["imagenet"]) == Augmentation(True, "resized")
    for name in ("fashion-mnist", "fashion-mnist-32", "cifar-10"):
        assert default_augmentation(PRESETS[name]) == Augmentation(True, "shift")
    assert default_augmentation(PRESETS["none"]) == NONE
    assert output_size(PRESETS["imagenet"]) == (224, 224)
    assert output_size(PRESETS["fashion-mnist"]) == (56, 56)
    assert output_size(RGB.changed({"resize": 30})) is None


def test_as_values_and_in_words() -> None:
    chosen = Augmentation(True, "resized", (2, 9))
    assert chosen.to_dict() == {"flip": True, "crop": "resized", "randaugment": [2, 9]}
    assert str(chosen) == (
        "8 to 100 % of the area, resized, flipped, RandAugment of 2 operations, magnitude 9"
    )
    assert str(NONE) == "none"
    assert NONE.to_dict() == {"flip": False, "crop": "none", "randaugment": None}


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"crop": "centre"}, "crop 'centre' is none of none, shift, resized"),
        ({"randaugment": (0, 9)}, "randaugment 0 x 9"),
        ({"randaugment": (2, 11)}, "randaugment 2 x 11 .* magnitude 0 to 10"),
        ({"randaugment": (2, -1)}, "randaugment 2 x -1"),
    ],
)
def test_settings_that_are_none(settings: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Augmentation(**settings)  # type: ignore[arg-type]


# RandAugment: strength 0.5, which is magnitude 5

BILINEAR = Image.Resampling.BILINEAR
AFFINE = Image.Transform.AFFINE
PILLOW: dict[Callable[..., Image.Image], Callable[[Image.Image], Image.Image]] = {
    ops.identity: lambda p: p,
    ops.autocontrast: ImageOps.autocontrast,
    ops.equalize: ImageOps.equalize,
    ops.rotate: lambda p: p.rotate(15, BILINEAR),
    ops.solarize: lambda p: ImageOps.solarize(p, 128),
    ops.color: lambda p: ImageEnhance.Color(p).enhance(1.45),
    ops.posterize: lambda p: ImageOps.posterize(p, 6),
    ops.contrast: lambda p: ImageEnhance.Contrast(p).enhance(1.45),
    ops.brightness: lambda p: ImageEnhance.Brightness(p).enhance(1.45),
    ops.sharpness: lambda p: ImageEnhance.Sharpness(p).enhance(1.45),
    ops.shear_x: lambda p: p.transform(p.size, AFFINE, (1, 0.15, 0, 0, 1, 0), BILINEAR),
    ops.shear_y: lambda p: p.transform(p.size, AFFINE, (1, 0, 0, 0.15, 1, 0), BILINEAR),
    ops.translate_x: lambda p: p.transform(p.size, AFFINE, (1, 0, 5, 0, 1, 0)),  # 24 * 0.227
    ops.translate_y: lambda p: p.transform(p.size, AFFINE, (1, 0, 0, 0, 1, 4)),  # 16 * 0.227
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operations_are_pillows(operation: Callable[..., Image.Image], channels: int) -> None:
    whole = Image.fromarray(np.asarray(picture(16, 24, channels)) // 2 + 40)  # room for contrast
    expected = np.asarray(PILLOW[operation](whole))
    assert np.array_equal(np.asarray(operation(whole, 0.5)), expected)
    inert = [ops.identity, *([ops.color] if channels == 1 else [])]
    assert np.array_equal(expected, np.asarray(whole)) == (operation in inert)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_magnitude_0_changes_nothing(operation: Callable[..., Image.Image]) -> None:
    if operation not in (ops.autocontrast, ops.equalize):  # these have no magnitude
        assert np.array_equal(np.asarray(operation(picture(), 0.0)), np.asarray(picture()))


def test_magnitude_10_by_hand() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    inverted = np.asarray(ops.solarize(ramp, -1.0)).ravel()
    assert inverted.tolist() == list(range(255, -1, -1))
    assert set(np.asarray(ops.posterize(ramp, 1.0)).ravel().tolist()) == set(range(0, 256, 16))
    dimmed = np.asarray(ops.brightness(ramp, -1.0)).ravel()
    assert dimmed[200] == 20
    dot = Image.fromarray(np.eye(1, 100, 50, dtype=np.uint8))
    assert np.asarray(ops.translate_x(dot, 1.0)).ravel().nonzero()[0].tolist() == [5]  # by 45
    assert np.asarray(ops.translate_x(dot, -1.0)).ravel().nonzero()[0].tolist() == [95]


def test_randaugment_picks_and_chains() -> None:
    """Numbers 8 and 3 of the list, the first in its negative direction."""
    whole = picture()
    ours = randaugment(whole, 2, 5, Scripted(8, 3, 0.7, 0.2))
    assert np.array_equal(
        np.asarray(ours), np.asarray(ops.rotate(ops.brightness(whole, -0.5), 0.5))
    )


def test_randaugment_uses_every_operation() -> None:
    dull = Image.fromarray(np.asarray(picture(24, 24)) // 2 + 40)  # room for contrast
    seen = {randaugment(dull, 1, 9, np.random.default_rng(seed)).tobytes() for seed in range(400)}
    directed = 9  # rotate, color, contrast, brightness, sharpness, two shears, two shifts
    assert len(seen) == len(OPERATIONS) + directed
