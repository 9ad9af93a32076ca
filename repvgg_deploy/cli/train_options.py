"""The options of ``train``, group by group."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from ..models.zoo import ZOO
from ..train.recipe import Recipe
from . import options
from .data_options import PREPROCESSING
from .groups import gather

PATH = click.Path(path_type=Path)
NOT_NEGATIVE = click.FloatRange(0, 1e6)
SHARE = click.FloatRange(0, 1, max_open=True)


class Numbers(click.ParamType[tuple[int, ...]]):
    """``2,9``: ``count`` numbers of up to ``largest``."""

    def __init__(self, count: int, largest: int, example: str) -> None:
        self.name = ",".join("N" * count)
        self._count, self._largest, self._example = count, largest, example

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if len(parts) != self._count or not all(re.fullmatch(r"\d{1,6}", one) for one in parts):
            self.fail(f"{value!r} is not {self._count} numbers, as {self._example}.", param, ctx)
        numbers = tuple(map(int, parts))
        if max(numbers) > self._largest:
            self.fail(f"{value!r} has a number above {self._largest}.", param, ctx)
        return numbers


@dataclass(frozen=True)
class NetworkOptions:
    arch: str | None
    widths: tuple[int, int, int, int, int] | None
    block: str | None
    init: str | None
    keep_head: bool
    family: str | None
    ema_of_init: bool | None


NETWORK = {
    "arch": click.option(
        "--arch",
        type=click.Choice(list(ZOO), case_sensitive=False),
        help="One of `repvgg-deploy models`; with --init not needed.",
    ),
    "widths": click.option(
        "--widths",
        type=Numbers(5, 1 << 14, "16,16,32,64,256"),
        help="Channels of stages 0 to 4 in place of the architecture's own; its depths stay.",
    ),
    "block": click.option(
        "--block",
        type=click.Choice(["repvgg", "qarepvgg"]),
        help="qarepvgg: no batch norm on the 1x1 and identity branches and one after the sum, "
        "which keeps more of its accuracy in int8 (docs/training.md). [default: repvgg]",
    ),
    "init": click.option(
        "--init",
        metavar="CHECKPOINT",
        help="Start from a checkpoint of any family that fuse reads, a file or "
        "hf:OWNER/REPO[@REVISION][:FILE]; with a new classifier where the classes are others.",
    ),
    "keep_head": click.option(
        "--keep-head", is_flag=True, help="Keep --init's classifier: the classes are the same."
    ),
    "family": options.family,
    "ema_of_init": click.option(
        "--init-ema/--no-init-ema",
        "ema_of_init",
        default=None,
        help="Start from --init's moving average, or not. [default: where there is one]",
    ),
}


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
        type=SHARE,
        default=0.0,
        help="Or validate on this share of the training images. [default: on the test images "
        "beside them, where there are any]",
    ),
    "max_corrupt": click.option(
        "--max-corrupt",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Go on without images that cannot be decoded, up to this share; they are listed.",
    ),
    "workers": click.option(
        "--workers",
        type=click.IntRange(0, 256),
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


#: Of a run from fresh weights, of a fine-tuning, and of training for int8.
LEARNING_RATES = {"fresh": 0.1, "init": 0.01, "qat": 0.001}


@dataclass(frozen=True)
class RecipeOptions:
    """By the names of Recipe's fields."""

    settings: dict[str, Any]

    def recipe(self, start: str) -> Recipe:
        """``start`` is one of LEARNING_RATES."""
        rate = self.settings["lr"]
        return Recipe(**{**self.settings, "lr": LEARNING_RATES[start] if rate is None else rate})


_STANDARD = {field.name: field.default for field in fields(Recipe)}


def _setting(name: str, kind: Any, text: str) -> Any:
    option = "--" + name.replace("_", "-")
    return click.option(option, type=kind, default=_STANDARD[name], show_default=True, help=text)


def _switch(name: str, text: str) -> Any:
    return click.option("--" + name.replace("_", "-"), is_flag=True, help=text)


RECIPE = {
    "epochs": click.option("--epochs", required=True, type=click.IntRange(1, 100_000)),
    "batch": _setting(
        "batch", click.IntRange(1, options.LARGEST_BATCH), "Images of a step, over all processes."
    ),
    "lr": click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        help="The largest learning rate, at the end of the warm-up; from there a cosine leads to "
        "0. [default: 0.1; with --init 0.01, with --qat 0.001]",
    ),
    "momentum": _setting("momentum", SHARE, "Nesterov's."),
    "weight_decay": _setting(
        "weight_decay", NOT_NEGATIVE, "Of kernels and the classifier; none of biases and norms."
    ),
    "warmup_epochs": _setting("warmup_epochs", NOT_NEGATIVE, "Epochs of linear warm-up."),
    "custom_l2": _switch("custom_l2", "Weight decay of the equivalent kernel in place of the "
                         "branches' own, as in RepVGG's code."),
    "label_smoothing": _setting("label_smoothing", SHARE, "Share spread over all classes."),
    "mixup": _setting("mixup", NOT_NEGATIVE, "Alpha of mixup's beta distribution; 0: none."),
    "ema": click.option(
        "--ema", type=SHARE, help="Decay of a moving average of the weights. [default: none]"
    ),
    "aux_weight": _setting(
        "aux_weight", NOT_NEGATIVE, "What the losses of RepVGGplus's auxiliary heads count."
    ),
    "precision": _setting(
        "precision", click.Choice(["fp32", "bf16", "fp16"]), "Of autocast; weights are in fp32."
    ),
    "channels_last": _switch("channels_last", "The memory format that is faster on most GPUs."),
    "recompute": _switch("recompute", "Less memory, more time: gradient checkpointing of blocks."),
    "seed": _setting("seed", click.IntRange(0, 2**31), "Of everything that is random."),
}  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    out: Path | None
    resume: bool
    device: str
    devices: int


RUN = {
    "out": click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the run. [default: runs/<architecture>]",
    ),
    "resume": click.option(
        "--resume", is_flag=True, help="Go on with the run in --out, by the same command."
    ),
    "device": click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="auto: the GPU where torch can use one.",
    ),
    "devices": click.option(
        "--devices",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="Processes on this machine, each with a device of its own; or start them by torchrun.",
    ),
}


@dataclass(frozen=True)
class QatOptions:
    distill: bool
    scales: str | None
    reinsert_bn: bool
    float_type: str
    no_stem: bool
    linear: bool
    samples: int
    name: str | None
    engines: Path


QAT = {
    "distill": click.option(
        "--distill",
        is_flag=True,
        help="Learn from the float network's answers; --data then needs no labels.",
    ),
    "scales": click.option(
        "--scales",
        type=click.Choice(["fixed", "learned"]),
        help="Keep calibration's scales, or learn them (LSQ). [default: as docs/training.md says]",
    ),
    "reinsert_bn": click.option(
        "--reinsert-bn", is_flag=True, help="A batch norm after each fused convolution again."
    ),
    "float_type": click.option(
        "--float",
        "float_type",
        type=click.Choice(["fp16", "fp32"]),
        default="fp16",
        show_default=True,
        help="What is not int8 computes in this type.",
    ),
    "no_stem": click.option(
        "--no-stem", is_flag=True, help="Leave the first convolution in float."
    ),
    "linear": click.option("--linear", is_flag=True, help="Quantize the classifier too."),
    "samples": click.option(
        "--samples",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
        help="Images of the training set to calibrate with before training.",
    ),
    "name": click.option(
        "--name",
        help="Name of the int8 model in the workspace. [default: that of the run's folder]",
    ),
    "engines": options.engines,
}

SECTIONS = {
    "Network": tuple(NETWORK),
    "Data": tuple(DATA),
    "Preprocessing, in training and validation": PREPROCESSING,
    "Augmentation": tuple(AUGMENT),
    "Recipe": tuple(RECIPE),
    "Run": tuple(RUN),
    "Training for int8": ("qat", *QAT),
}

network_options = gather("network", NetworkOptions, NETWORK)
dataset_options = gather("data", DataOptions, DATA)
augment_options = gather("augment", AugmentOptions, AUGMENT)
recipe_options = gather("recipe", lambda **settings: RecipeOptions(settings), RECIPE)
run_options = gather("run", RunOptions, RUN)
qat_options = gather("qat_options", QatOptions, QAT)
