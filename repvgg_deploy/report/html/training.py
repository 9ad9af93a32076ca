"""The training run of a report: its learning curves, and its settings in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..text import count_text
from .curves import Curve, curves
from .tables import flat
from .values import integer

if TYPE_CHECKING:
    from ...steps.lineage.record import Report
    from ...train.record import Epoch, TrainRecord


def learning_curves(report: Report) -> dict[str, str]:
    """SVG by name; empty where there is nothing to show."""
    epochs: list[Epoch] = [] if report.training is None else report.training.record.epochs
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
        "loss": curves("loss", numbers, loss, "loss"),
        "top1": curves("top1", numbers, top1, "top-1, %"),
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
    for part, name in ((data.preprocessing, "preprocessing"), (data.augmentation, "augmentation")):
        settings = ", ".join(f"{key} {value}" for key, value in flat(part, "none"))
        yield name, settings or "none"
    if initial is None:
        yield "started from", "nothing: fresh weights"
    else:
        new = f", {count_text(len(initial.fresh), 'new one')}" if initial.fresh else ""
        taken = count_text(len(initial.taken), "tensor")
        yield "started from", f"{initial.path} ({initial.family}): {taken} taken{new}"
    yield from flat(record.recipe, "none")
    yield from ((f"int8, {name}", value) for name, value in flat(record.qat or {}, "none"))
    yield "processes", integer(record.processes)
    seconds = sum(one.seconds for one in record.epochs)
    yield "time", f"{seconds:,.0f} s in {count_text(len(record.epochs), 'epoch')}"
    if record.stopped:
        yield "stopped early", record.stopped


def best_epoch(record: TrainRecord) -> Epoch | None:
    """The one with the best validation top-1, of the moving average where there is one."""
    measured = [one for one in record.epochs if _top1(one) is not None]
    return max(measured, key=lambda one: _top1(one) or 0.0, default=None)


def _top1(epoch: Epoch) -> float | None:
    return epoch.val_top1 if epoch.ema_top1 is None else epoch.ema_top1
