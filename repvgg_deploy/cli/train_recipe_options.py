"""Options of ``train`` that say how it is done: the fields of a Recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import click

from ..train.recipe import Recipe
from .groups import Amount
from .options import LARGEST_BATCH, PositiveNumber

LEARNING_RATE = PositiveNumber("X", 1e38, "learning rate above 0 and up to 1e38")

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


SHARE = Amount(1, below=True)
_STANDARD = {field.name: field.default for field in fields(Recipe)}


def _setting(name: str, kind: Any, text: str) -> Any:
    option = "--" + name.replace("_", "-")
    return click.option(option, type=kind, default=_STANDARD[name], show_default=True, help=text)


def _switch(name: str, text: str) -> Any:
    return click.option("--" + name.replace("_", "-"), is_flag=True, help=text)


RECIPE = {
    "epochs": click.option("--epochs", required=True, type=click.IntRange(1, 100_000)),
    "batch": _setting(
        "batch", click.IntRange(1, LARGEST_BATCH), "Images of a step, over all processes."
    ),
    "lr": click.option(
        "--lr",
        type=LEARNING_RATE,
        help="The largest learning rate, at the end of the warm-up; from there a cosine leads to "
        "0. [default: 0.1; with --init 0.01, with --qat 0.001]",
    ),
    "momentum": _setting("momentum", SHARE, "Of SGD."),
    "weight_decay": _setting(
        "weight_decay", Amount(1e6), "Of kernels and the classifier; none of biases and norms."
    ),
    "warmup_epochs": _setting("warmup_epochs", Amount(1e6), "Epochs of linear warm-up."),
    "custom_l2": _switch(
        "custom_l2",
        "Weight decay of the equivalent kernel in place of the branches' own, as in RepVGG's code.",
    ),
    "label_smoothing": _setting("label_smoothing", SHARE, "Share spread over all classes."),
    "mixup": _setting("mixup", Amount(1e6), "Alpha of mixup's beta distribution; 0: none."),
    "ema": click.option(
        "--ema", type=SHARE, help="Decay of the weights' moving average. [default: none]"
    ),
    "aux_weight": _setting(
        "aux_weight", Amount(1e6), "What the losses of RepVGGplus's auxiliary heads count."
    ),
    "precision": _setting(
        "precision", click.Choice(["fp32", "bf16", "fp16"]), "Of autocast; weights are in fp32."
    ),
    "channels_last": _switch("channels_last", "The memory format that is faster on most GPUs."),
    "recompute": _switch("recompute", "Less memory, more time: gradient checkpointing of blocks."),
    "seed": _setting("seed", click.IntRange(0, 2**31), "Of everything that is random."),
}
