"""The training runs of a report: their learning curves, and their settings in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...train.progress import Progress
from ..text import count_text
from .curves import Curve, curves
from .tables import flat
from .values import integer

if TYPE_CHECKING:
    from ...steps.lineage.record import Report, Training
    from ...train.record import Epoch, TrainRecord


@dataclass(frozen=True)
class Run:
    """A training run as it is shown; ``name`` tells its plots and its table from another's."""

    name: str
    heading: str
    made: Training
    facts: list[tuple[str, str]]
    best: Epoch | None


def runs(report: Report) -> list[Run]:
    """Of the checkpoint, then of the int8 model; those that are known."""
    found = (("", "", report.training), ("int8-", "For int8", report.int8_training))
    return [
        Run(name, heading, made, list(training_facts(made.record)), best_epoch(made.record))
        for name, heading, made in found
        if made is not None
    ]


def learning_curves(report: Report) -> dict[str, str]:
    """SVG by name, each with the run's own before it; empty where there is nothing to show."""
    return {
        f"{run.name}{name}": svg
        for run in runs(report)
        for name, svg in _curves(run.name, run.made.record.epochs).items()
    }


def _curves(run: str, epochs: list[Epoch]) -> dict[str, str]:
    numbers = [one.epoch for one in epochs]
    loss = [
        Curve("training", [one.loss for one in epochs]),
        Curve("validation", [one.val_loss for one in epochs]),
        Curve("moving average", [one.ema_loss for one in epochs]),
    ]
    top1 = [
        Curve("validation", [one.val_top1 for one in epochs]),
        Curve("moving average", [one.ema_top1 for one in epochs]),
    ]
    return {
        "loss": curves(f"{run}loss", numbers, loss, "loss"),
        "top1": curves(f"{run}top1", numbers, top1, "top-1, %"),
    }


def training_facts(record: TrainRecord) -> Iterator[tuple[str, str]]:
    """Names and values: architecture, data, where it started from, recipe, time."""
    data, initial = record.data, record.initial
    yield "architecture", record.architecture
    yield "training set", f"{data.path}, {data.images:,} images"
    validation = f"{data.val_path}, {data.val_images:,} images"
    yield "validation set", validation if data.val_images else "none"
    yield "classes", integer(data.num_classes)
    if data.corrupt:
        yield "left out", f"{count_text(len(data.corrupt), 'corrupt image')}"
    yield "preprocessing", _settings(data.preprocessing)
    yield "augmentation", _settings(data.augmentation)
    if initial is None:
        yield "started from", "nothing: fresh weights"
    else:
        new = f", {count_text(len(initial.fresh), 'new one')}" if initial.fresh else ""
        taken = count_text(len(initial.taken), "tensor")
        yield "started from", f"{initial.path} ({initial.family}): {taken} taken{new}"
    yield "recipe", _settings(record.recipe)
    if record.qat is not None:
        yield "int8", _settings(record.qat)
    yield "processes", integer(record.processes)
    seconds = sum(one.seconds for one in record.epochs)
    yield "time", f"{seconds:,.0f} s in {count_text(len(record.epochs), 'epoch')}"
    if record.stopped:
        yield "stopped early", record.stopped


def _settings(values: Mapping[str, Any]) -> str:
    """``epochs 12; batch 256; ...``"""
    named = (f"{name.replace('_', ' ')} {value}" for name, value in flat(values, "none"))
    return "; ".join(named) or "none"


def best_epoch(record: TrainRecord) -> Epoch | None:
    """The one with the best validation top-1, of the moving average where there is one."""
    return Progress(epochs=record.epochs).best()
