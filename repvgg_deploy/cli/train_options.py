"""The options of ``train``, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from ..models.spec import Block, Strides
from ..models.zoo import ZOO
from ..train.qat.settings import QatSettings
from . import options
from .data_options import PREPROCESSING
from .groups import Numbers, gather
from .quantize_parts import METHODS
from .train_data_options import AUGMENT, DATA, AugmentOptions, DataOptions
from .train_recipe_options import RECIPE, RecipeOptions


@dataclass(frozen=True)
class NetworkOptions:
    arch: str | None
    widths: tuple[int, int, int, int, int] | None
    block: Block | None
    strides: Strides | None
    init: str | None
    keep_head: bool
    family: str | None
    ema_of_init: bool | None


NETWORK = {
    "arch": click.option(
        "--arch",
        type=click.Choice(list(ZOO), case_sensitive=False),
        metavar="NAME",
        help="RepVGG-A0 or another one that `repvgg-deploy models` lists; with --init not needed.",
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
    "strides": options.strides,
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
class RunOptions:
    out: Path | None
    resume: bool
    device: Literal["auto", "cpu", "cuda"]
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
    start: str
    distill: bool
    scales: Literal["fixed", "learned"]
    reinsert_bn: bool
    float_type: Literal["fp16", "fp32"]
    no_stem: bool
    linear: bool
    samples: int
    name: str | None
    engines: Path


QAT = {
    "start": click.option(
        "--start",
        type=click.Choice(METHODS),
        default=QatSettings.start,
        show_default=True,
        help="The --method of quantize that training starts from.",
    ),
    "distill": click.option(
        "--distill",
        is_flag=True,
        help="Learn from the float network's answers; --data then needs no labels.",
    ),
    "scales": click.option(
        "--scales",
        type=click.Choice(["fixed", "learned"]),
        default=QatSettings.scales,
        show_default=True,
        help="Keep calibration's scales, or learn them with the weights (LSQ).",
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
qat_options = gather("int8", QatOptions, QAT)
