"""How near a network's outputs come to another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sqnr import decibel

Outputs = Mapping[str, NDArray[Any]]

#: In decibel, of an int8 model's logits in another runtime beside those of its graph run as it
#: stands. Optimised, a runtime rounds elsewhere, and integers on an edge fall to the other side, so
#: the distance hangs on luck. Two networks that have nothing to do with each other reach -3.
SAME_INT8_DB = 10.0
#: The share of equal answers, on noise as well: two networks of n classes agree in 1/n.
SAME_INT8_AGREEMENT = 0.5


@dataclass(frozen=True)
class Likeness:
    """``sqnr_db`` as in sqnr.py of outputs beside others, ``agreement`` the share of equal classes
    (None: the outputs are no classes), ``top1_drop`` how many points top-1 falls by on labelled
    images (None: there are no labels; negative: it rises)."""

    sqnr_db: float
    agreement: float | None
    top1_drop: float | None = None


class LikenessTally:
    """Likeness added up batch by batch, so that no outputs are kept.

    The SQNR is over all outputs, each counting alike. A single output of [n, classes] is that of a
    classifier; ``labels`` [N] are of the images in their order.
    """

    def __init__(self, labels: NDArray[np.int64] | None = None) -> None:
        self.samples = 0
        self._labels = labels
        self._signal: dict[str, float] = {}
        self._error: dict[str, float] = {}
        self._classifies = False
        self._agreeing = self._right = self._expected_right = 0

    def add(self, found: Outputs, truth: Outputs) -> None:
        """Count a batch: what one network gives, by name, and what it should have given."""
        for name, values in truth.items():
            exact = values.astype(np.float64)
            with np.errstate(invalid="ignore"):  # infinity less infinity, which decibel tells
                error = float(((found[name] - exact) ** 2).sum())
            signal = float((exact**2).sum())
            self._signal[name] = self._signal.get(name, 0.0) + signal
            self._error[name] = self._error.get(name, 0.0) + error
        first = next(iter(truth))
        self._classifies = len(truth) == 1 and truth[first].ndim == 2
        if self._classifies:
            self._add_answers(found[first].argmax(1), truth[first].argmax(1))
        self.samples += len(truth[first])

    def _add_answers(self, answers: NDArray[Any], expected: NDArray[Any]) -> None:
        self._agreeing += int((answers == expected).sum())
        if self._labels is not None:
            labels = self._labels[self.samples : self.samples + len(answers)]
            self._right += int((answers == labels).sum())
            self._expected_right += int((expected == labels).sum())

    def likeness(self) -> Likeness:
        """Of all that was added, which is something."""
        shares = [error / max(self._signal[name], 1e-300) for name, error in self._error.items()]
        sqnr_db = decibel(len(shares), sum(shares))
        if not self._classifies:
            return Likeness(sqnr_db, None)
        drop = None
        if self._labels is not None:
            drop = 100 * (self._expected_right - self._right) / self.samples
        return Likeness(sqnr_db, self._agreeing / self.samples, drop)


def likeness(logits: NDArray[np.floating], truth: NDArray[np.floating]) -> Likeness:
    """Of [N, classes] beside ``truth``."""
    tally = LikenessTally()
    tally.add({"logits": logits}, {"logits": truth})
    return tally.likeness()
