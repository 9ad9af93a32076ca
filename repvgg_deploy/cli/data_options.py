"""Options of commands that read images to calibrate with or to evaluate on."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from ..data.preprocessing import INTERPOLATIONS, PRESETS, Preprocessing
from ..errors import UserError
from .options import ImageSize

_NUMBER = re.compile(r"-?\d{1,9}(\.\d{0,20})?")


class SideOrSize(click.ParamType[Any]):
    """``256`` as the shorter side, ``HEIGHTxWIDTH`` as (height, width), ``none`` as ``()``."""

    name = "N|HxW|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | tuple[int, ...]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        size = NoneOrSize().convert(value, param, ctx)
        return size[0] if size and "x" not in value else size


class NoneOrSize(click.ParamType[tuple[int, ...]]):
    """``224`` or ``HEIGHTxWIDTH`` as (height, width), ``none`` as ``()``."""

    name = "N|HxW|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        return () if value == "none" else ImageSize().convert(value, param, ctx)


class PerChannel(click.ParamType[tuple[float, ...]]):
    """``0.5`` for every channel, or ``0.485,0.456,0.406``."""

    name = "X,X,X"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if len(parts) not in (1, 3) or not all(_NUMBER.fullmatch(part) for part in parts):
            self.fail(f"{value!r} is not one number or three, as 0.485,0.456,0.406.", param, ctx)
        return tuple(map(float, parts))


@dataclass(frozen=True)
class PreprocessingOptions:
    """``settings`` are what the options name one by one, by field of Preprocessing."""

    preset: str | None
    settings: dict[str, Any]

    def pick(self, recorded: Preprocessing | None = None) -> Preprocessing | None:
        """The preset, or else ``recorded``, with the settings in place of its own.

        None where nothing says what it is, which is enough for images that are preprocessed.

        Raises:
            UserError: settings that contradict one another, or that are not all that is needed.
        """
        base = recorded if self.preset is None else PRESETS[self.preset]
        if base is None:
            if not self.settings:
                return None
            if not {"mean", "std"}.issubset(self.settings):
                raise UserError("--mean and --std: give both, or a preset with --preprocess.")
            base = Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
        if base.ready and self.settings:
            raise UserError(
                "--preprocess none: is for images that are preprocessed already, so nothing else "
                "can be set; name another preset, or leave the other options out."
            )
        try:
            chosen = base.changed(self.settings)
        except ValueError as error:
            raise UserError(
                f"--preprocess, --mean, --std, --channels: do not go together ({error}); give "
                "--mean and --std a number for each channel."
            ) from error
        if "interpolation" in self.settings and chosen.resize is None:
            raise UserError(
                "--interpolation: is for --resize, and nothing is resized; leave it out."
            )
        return chosen


_OPTIONS = (
    click.option(
        "--preprocess",
        "preset",
        type=click.Choice(list(PRESETS)),
        help="How images become inputs, as in training (docs/evaluation.md); none: they are inputs "
        "already (float arrays). The options below change single steps of it.",
    ),
    click.option(
        "--resize", type=SideOrSize(), help="Resize the shorter side to N, or to HEIGHTxWIDTH."
    ),
    click.option(
        "--crop",
        type=NoneOrSize(),
        help="Take this much from the centre, black where the image is smaller.",
    ),
    click.option("--interpolation", type=click.Choice(INTERPOLATIONS), help="Filter of --resize."),
    click.option("--channels", type=click.Choice(["1", "3"]), help="Grey or RGB."),
    click.option("--mean", type=PerChannel(), help="Taken from pixels that are scaled to 0..1."),
    click.option("--std", type=PerChannel(), help="What the difference is divided by."),
)
#: Parameters of the above, for refuse_options.
PREPROCESSING = ("preset", "resize", "crop", "interpolation", "channels", "mean", "std")

split = click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    help="Which images of a folder that holds both, as IDX files or as CIFAR-10's.",
)


def preprocessing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as ``preprocessing``."""

    @functools.wraps(command)
    def gathered(
        *args: Any,
        preset: str | None,
        resize: int | tuple[int, ...] | None,
        crop: tuple[int, ...] | None,
        interpolation: str | None,
        channels: str | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        **others: Any,
    ) -> None:
        settings = {
            "resize": resize,
            "crop": crop,
            "interpolation": interpolation,
            "channels": None if channels is None else int(channels),
            "mean": mean,
            "std": std,
        }
        given = {name: value or None for name, value in settings.items() if value is not None}
        command(*args, preprocessing=PreprocessingOptions(preset, given), **others)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered
