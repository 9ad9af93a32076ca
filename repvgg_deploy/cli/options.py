"""Options that more than one command has, each defined once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ..models.spec import LARGEST_STRIDE
from .groups import Numbers

#: Beyond these a number is a slip of the finger; they keep shapes within what runtimes take.
LARGEST_SIDE, LARGEST_BATCH = 16_384, 65_536


class PositiveNumber(click.ParamType[float]):
    """A number above 0 and up to ``largest``, which ``nan`` and ``inf`` are not."""

    def __init__(self, name: str, largest: float, text: str) -> None:
        self.name, self._largest, self._text = name, largest, text

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= self._largest:
            self.fail(f"{value!r} is no {self._text}.", param, ctx)
        return number


SECONDS = PositiveNumber("seconds", 86_400, "time above 0 and up to 86400 seconds")
MILLISECONDS = PositiveNumber("ms", 3_600_000, "time above 0 and up to 3600000 ms")
RATE = PositiveNumber("rate", 1e6, "rate above 0 and up to 1000000 a second")
EPS = PositiveNumber("number", 1, "number above 0 and up to 1")


class ImageSize(click.ParamType[tuple[int, int]]):
    """``224`` or ``HEIGHTxWIDTH`` as (height, width)."""

    name = "N|HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", value)
        if match is None or max(int(match[1]), int(match[2] or 1)) > LARGEST_SIDE:
            self.fail(
                f"{value!r} is no image size up to {LARGEST_SIDE}; write 224 or 256x192.",
                param,
                ctx,
            )
        return int(match[1]), int(match[2] or match[1])


class Batches(click.ParamType[list[int]]):
    """``1,8,32`` as a list of batch sizes."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        if isinstance(value, list):
            return value
        parts = value.split(",")
        well_formed = all(re.fullmatch(r"[1-9][0-9]{0,4}", part) for part in parts)
        if not well_formed or max(map(int, parts)) > LARGEST_BATCH:
            self.fail(
                f"{value!r} is no list of batch sizes up to {LARGEST_BATCH} such as 1,8,32.",
                param,
                ctx,
            )
        return [int(part) for part in parts]


class TargetList(click.ParamType[list[str]]):
    """``sm86,sm89`` as a list of RTX compute capabilities, each once; ``8.6`` is sm86 too."""

    name = "smNN,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:
        if isinstance(value, list):
            return value
        parts = value.lower().split(",")
        found = [re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", part) for part in parts]
        if not all(found):
            self.fail(f"{value!r} is no list of targets such as sm86,sm89.", param, ctx)
        return list(dict.fromkeys(f"sm{match[1]}{match[2]}" for match in found if match))


engines = click.option(
    "--engines",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("engines"),
    show_default=True,
    help="Workspace folder that the commands share.",
)
model = click.option("--model", help="Model in the workspace. [default: the one fused last]")
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the proof runs; auto: the GPU where torch can use one.",
)
images = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Real images for the proof, [N, C, H, W], preprocessed: .npy, or .npz with an array x; "
    "for an ONNX model of several inputs, .npz with arrays of their names. [default: seeded noise "
    "and extremes]",
)
image_size = click.option("--size", "image_size", type=ImageSize(), help="Image size in pixels.")
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
)
allow_costlier = click.option(
    "--allow-costlier",
    is_flag=True,
    help="Fuse an ONNX region even where one Conv takes more multiply-adds than its parts did.",
)
eps = click.option(
    "--eps",
    type=EPS,
    help="Batch norm's eps, which no checkpoint holds. [default: the family's own]",
)
strides = click.option(
    "--strides",
    type=Numbers(5, LARGEST_STRIDE, "1,1,2,2,2", least=1),
    help="Of the first blocks of stages 0 to 4 of a whole network, which no checkpoint holds. "
    "[default: 2,2,2,2,2]",
)
truth = click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="Inputs and outputs recorded from your own model, which the result has to reproduce: .npz "
    "with arrays x and y, or named as inputs and outputs (docs/pipeline.md). Exit code 3 if not.",
)
family = click.option(
    "--family",
    help="Read the blocks as this code base's (docs/families.md). [default: by keys and shapes]",
)
ema = click.option(
    "--ema/--no-ema",
    default=None,
    help="Take the moving average of the weights, or not. [default: where there is one]",
)
