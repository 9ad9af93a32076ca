"""Options of ``train`` that say what it sees: images, and how they are changed at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from .groups import Amount, Numbers

PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class DataOptions:
    data: Path
    val: Path | None
    hold_out: float
    max_corrupt: float
    workers: int


DATA = {
    "data": click.option(
        "--data",
        required=True,
        type=PATH,
        help="Images: a folder whose sub-folders are the classes, IDX files, or CIFAR-10 binaries.",
    ),
    "val": click.option("--val", type=PATH, help="Images to validate on, of the same classes."),
    "hold_out": click.option(
        "--hold-out",
        type=Amount(1, below=True),
        default=0.0,
        help="Or validate on this share of the training images. [default: on the test images "
        "beside them, where there are any]",
    ),
    "max_corrupt": click.option(
        "--max-corrupt",
        type=Amount(1),
        default=0.01,
        show_default=True,
        help="Go on without images that cannot be decoded, up to this share; they are listed.",
    ),
    "workers": click.option(
        "--workers",
        type=click.IntRange(0, 256),
        metavar="N",
        default=0,
        show_default=True,
        help="Processes that load images; 0: this one. It changes no result.",
    ),
}


@dataclass(frozen=True)
class AugmentOptions:
    flip: bool | None
    random_crop: str | None
    randaugment: tuple[int, int] | None


AUGMENT = {
    "flip": click.option(
        "--flip/--no-flip",
        default=None,
        help="Mirror every second image. [default: yes, but for inputs that are ready]",
    ),
    "random_crop": click.option(
        "--random-crop",
        type=click.Choice(["none", "shift", "resized"]),
        help="shift: by up to an eighth; resized: 8 to 100 % of the area. [default: resized where "
        "the shorter side is resized and then cropped, else shift]",
    ),
    "randaugment": click.option(
        "--randaugment",
        type=Numbers(2, 100, "2,9"),
        help="So many random operations of this magnitude, 0 to 10.",
    ),
}
