"""When a warm-up is over: each step's times have stopped moving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: Blocks of rounds whose medians differ by no more than this share are alike.
ALIKE = 0.05
#: Seconds that clocks do not tell apart: steps of microseconds differ by that and mean nothing.
TICK = 1e-7
#: The notch of a median, to each side, in interquartile ranges over the root of the samples: where
#: notches overlap, medians do not differ at 95 % confidence (McGill, Tukey and Larsen, 1978).
NOTCH = 1.57
#: A block is of this many rounds at least, or lasts this many seconds.
BLOCK_ROUNDS, BLOCK_SECONDS = 3, 1.0


class WarmUp:
    """Compares blocks of rounds, step by step.

    A block is BLOCK_ROUNDS rounds, or fewer that last BLOCK_SECONDS, and never shorter than
    ``shortest`` seconds: rounds of microseconds say nothing about clocks that take milliseconds to
    rise. A step is steady once the medians of two blocks in a row differ by no more than ALIKE, or
    than twice the notch of the later block (the earlier one's would hold the fall from cold to
    warm), which on a noisy machine is more. Blocks of three noisy rounds so end the warm-up
    soon, and cannot see what falls by less than their noise; the drift check has all samples. Each
    step is held against itself, so that a slow one does not hide a fast one, and stays steady:
    whether it moves later is for the drift check.
    """

    def __init__(self, labels: list[str], shortest: float, start: float) -> None:
        #: Labels of the steps that are not steady yet.
        self.unsteady = list(labels)
        self._shortest = shortest
        self._before: dict[str, float] = {}
        self._block: dict[str, list[float]] = {label: [] for label in labels}
        self._rounds, self._begin = 0, start

    def add(self, seconds: Mapping[str, float], now: float) -> None:
        """One round, over ``now``: seconds by label; a label that is missing has failed."""
        for label, time in seconds.items():
            self._block[label].append(time)
        self._rounds += 1
        lasted = now - self._begin
        enough = self._rounds >= BLOCK_ROUNDS or lasted >= BLOCK_SECONDS
        if enough and lasted >= self._shortest:
            self._close({label: self._block[label] for label in seconds})
            self._begin = now

    def _close(self, block: dict[str, list[float]]) -> None:
        quartiles = {
            label: np.percentile(times, (25, 50, 75)).tolist() for label, times in block.items()
        }
        notches = {
            label: NOTCH * (q75 - q25) / len(block[label]) ** 0.5
            for label, (q25, _, q75) in quartiles.items()
        }
        moved = {
            label
            for label, (_, median, _) in quartiles.items()
            if label not in self._before
            or abs(median - self._before[label]) > max(ALIKE * median, 2 * notches[label], TICK)
        }
        self.unsteady = [label for label in self.unsteady if label in moved]
        self._before = {label: median for label, (_, median, _) in quartiles.items()}
        self._block = {label: [] for label in block}
        self._rounds = 0
