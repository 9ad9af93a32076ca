"""Answers of a network counted batch by batch, against labels and against a reference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..sqnr import decibel
from .intervals import Interval, paired_difference, share

#: Top-5 says something where there are more classes than this.
TOP = 5

Logits = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Of one network. None: there are no labels for it, or, ``top5``, too few classes.

    ``agreement`` is with the reference's first answer, ``difference`` how much larger top-1 is than
    the reference's, ``sqnr_db`` as in sqnr.py the logits' distance to the reference's.
    ``confusion`` counts images [class, answer]. ``not_finite`` images gave NaN or infinity, which
    counts as wrong.
    """

    samples: int
    top1: Interval | None
    top5: Interval | None
    agreement: Interval
    difference: Interval | None
    sqnr_db: float
    not_finite: int
    confusion: list[list[int]] | None


@dataclass
class Tally:
    """Counts of one network; its memory does not grow with the images."""

    classes: int
    labelled: bool
    with_confusion: bool
    samples: int = 0
    top1: int = 0
    top5: int = 0
    agreed: int = 0
    lost: int = 0
    gained: int = 0
    signal: float = 0.0
    noise: float = 0.0
    not_finite: int = 0
    confusion: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        side = self.classes if self.with_confusion else 0
        self.confusion = np.zeros((side, side), np.int64)

    def add(self, logits: Logits, reference: Logits, labels: Labels | None) -> None:
        """Count a batch; logits are [n, classes], labels [n] and below ``classes``."""
        answers, expected = first_answers(logits), first_answers(reference)
        usable = answers >= 0
        self.samples += len(logits)
        self.not_finite += int((~usable).sum())
        self.agreed += int((usable & (answers == expected)).sum())
        with np.errstate(invalid="ignore", over="ignore"):
            self.signal += float((reference**2).sum())
            self.noise += float(((logits - reference) ** 2).sum())
        if labels is None:
            return
        right, reference_right = answers == labels, expected == labels
        self.top1 += int(right.sum())
        self.top5 += int((usable & (_rank(logits, labels) < TOP)).sum())
        self.lost += int((reference_right & ~right).sum())
        self.gained += int((right & ~reference_right).sum())
        if self.with_confusion:
            np.add.at(self.confusion, (labels[usable], answers[usable]), 1)

    def scores(self) -> Scores:
        """What it comes to, of at least one image."""
        n = self.samples
        return Scores(
            samples=n,
            top1=share(self.top1, n) if self.labelled else None,
            top5=share(self.top5, n) if self.labelled and self.classes > TOP else None,
            agreement=share(self.agreed, n),
            difference=paired_difference(self.lost, self.gained, n) if self.labelled else None,
            sqnr_db=decibel(self.signal, self.noise),
            not_finite=self.not_finite,
            confusion=self.confusion.tolist() if self.with_confusion else None,
        )


def first_answers(logits: Logits) -> Labels:
    """[n]: the class of the largest logit, the first of equals; -1 where one is not finite."""
    return np.where(np.isfinite(logits).all(1), logits.argmax(1), -1)


def most_confused(confusion: list[list[int]], count: int) -> list[tuple[int, int, int]]:
    """(class, answer, images) of the most frequent wrong answers."""
    wrong = [
        (label, answer, images)
        for label, row in enumerate(confusion)
        for answer, images in enumerate(row)
        if images and label != answer
    ]
    return sorted(wrong, key=lambda entry: -entry[2])[:count]


def _rank(logits: Logits, labels: Labels) -> Labels:
    """[n]: how many classes go before the right one; of equal logits the first goes first."""
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    return np.asarray(((logits > own) | ((logits == own) & before)).sum(1))
