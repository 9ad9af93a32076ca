"""How near a network's outputs come to another's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Likeness:
    """``sqnr_db`` in decibel of outputs beside others, ``agreement`` the share of equal classes
    (None: the outputs are no classes), ``top1_drop`` how many points top-1 falls by on labelled
    images (None: there are no labels; negative: it rises)."""

    sqnr_db: float
    agreement: float | None
    top1_drop: float | None = None


def likeness(
    logits: NDArray[np.floating],
    truth: NDArray[np.floating],
    labels: NDArray[np.int64] | None = None,
) -> Likeness:
    """Of [N, classes] beside ``truth``; labels are [N]."""
    error = float(((logits.astype(np.float64) - truth) ** 2).sum())
    signal = float((truth.astype(np.float64) ** 2).sum())
    answers, expected = logits.argmax(1), truth.argmax(1)
    drop = None
    if labels is not None:
        right, expected_right = int((answers == labels).sum()), int((expected == labels).sum())
        drop = 100 * (expected_right - right) / len(labels)
    return Likeness(decibel(signal, error), float((answers == expected).mean()), drop)


def decibel(signal: float, error: float) -> float:
    """Of two sums of squares; infinite without an error."""
    return 10 * float(np.log10(max(signal, 1e-300) / error)) if error else float("inf")
