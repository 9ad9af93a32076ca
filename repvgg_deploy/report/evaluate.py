"""An evaluation as tables and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..evaluation.tally import most_confused
from ..sqnr import decibel_text
from .text import count_text, table

if TYPE_CHECKING:
    from ..evaluation.intervals import Interval
    from ..steps.evaluate import Evaluated, Evaluation

_HEADER = (
    "network", "runs on", "top-1 % [95 %]", "top-5 % [95 %]", "agreement % [95 %]",
    "top-1 - reference's [95 %]", "SQNR dB",
)  # fmt: skip
#: A table of more classes is wider than any screen.
_MOST_CLASSES = 20
_MOST_PAIRS = 5


def evaluation_text(result: Evaluation) -> str:
    """The networks side by side, then what was left out."""
    reference = result.networks[0]
    rows = [_row(network, network is reference) for network in result.networks]
    used = [i for i in range(len(_HEADER)) if any(row[i] for row in rows)]
    lines = [
        f"{result.data}: {count_text(result.samples, 'image')}, {result.preprocessing}",
        table([_HEADER[i] for i in used], [[row[i] for i in used] for row in rows], left=2),
        f"reference: {reference.name}; its logits and answers are what the others are held against",
    ]
    if not result.labelled:
        lines.append(
            "no labels are known (--labels), so there is no top-1: agreement and SQNR only"
        )
    for network in result.networks:
        if network.scores.not_finite:
            images = count_text(network.scores.not_finite, "image")
            lines.append(f"{network.name}: gave NaN or infinity for {images}, counted as wrong")
    lines += [f"left out: {reason}" for reason in result.left_out.values()]
    return "\n".join(lines)


def confusion_text(network: Evaluated, classes: Sequence[str] | None) -> str:
    """How often each class was taken for each other one."""
    confusion = network.scores.confusion
    assert confusion is not None  # it was counted
    names = classes or list(map(str, range(len(confusion))))
    lines = [f"{network.name}: classes (rows) and answers (columns)"]
    if len(confusion) <= _MOST_CLASSES:
        rows = [[name, *map(str, row)] for name, row in zip(names, confusion, strict=True)]
        lines.append(table(["", *names], rows))
    pairs = [
        f"{names[label]} taken for {names[answer]}: {count_text(images, 'image')}"
        for label, answer, images in most_confused(confusion, _MOST_PAIRS)
    ]
    return "\n".join([*lines, *pairs])


def _row(network: Evaluated, is_reference: bool) -> list[str]:
    scores = network.scores
    top1, top5 = (_percent(share) for share in (scores.top1, scores.top5))
    if is_reference:
        against = ["reference", "", ""]
    else:
        against = [
            _percent(scores.agreement),
            _points(scores.difference),
            decibel_text(scores.sqnr_db),
        ]
    return [network.name, network.runtime, top1, top5, *against]


def _percent(share: Interval | None) -> str:
    """``93.36 [90.87, 95.21]``"""
    if share is None:
        return ""
    return f"{100 * share.value:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]"


def _points(difference: Interval | None) -> str:
    """``-0.20 [-0.55, +0.16]``, in points of top-1"""
    if difference is None:
        return ""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
