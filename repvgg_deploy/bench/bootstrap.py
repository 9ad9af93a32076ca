"""Medians of resampled timings, which are not independent of their neighbours in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

RESAMPLES = 2000
#: The fewest independent samples that are resampled: fewer hide their own spread.
FEWEST = 6
#: Neighbours correlate by chance up to this over the root of the samples, in 95 % of cases.
_BY_CHANCE = 2.0


@dataclass(frozen=True)
class Estimate:
    """A median, or a ratio of medians: its value, and what it is in the resampled samples,
    [RESAMPLES]; None where there are too few."""

    value: float
    drawn: Times | None

    def over(self, other: Estimate) -> Estimate:
        """The ratio of two that were measured apart."""
        if self.drawn is None or other.drawn is None:
            return Estimate(self.value / other.value, None)
        return Estimate(self.value / other.value, self.drawn / other.drawn)


def alone(seconds: Sequence[float], rng: np.random.Generator) -> Estimate:
    """The median."""
    times = np.array(seconds, dtype=float)
    medians = _resampled_medians(times[None], times, rng)
    return Estimate(float(np.median(times)), None if medians is None else medians[0])


def in_turn(above: Sequence[float], below: Sequence[float], rng: np.random.Generator) -> Estimate:
    """The ratio of the medians of two that were measured in turn. Whole rounds are drawn, so the
    noise that matters is that of the ratio: what both share cancels."""
    rounds = min(len(above), len(below))
    both = np.array([above[:rounds], below[:rounds]], dtype=float)
    medians = _resampled_medians(both, both[0] / both[1], rng)
    value = float(np.median(both[0]) / np.median(both[1]))
    return Estimate(value, None if medians is None else medians[0] / medians[1])


def ranks(values: Times) -> Times:
    """Ranks from 1, [N] -> [N]; equal values share their mean."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean: Times = np.cumsum(counts) - (counts - 1) / 2
    return mean[where]


def memory(times: Times) -> float:
    """How much samples are like the one before: the correlation of their ranks, 0 where it is no
    more than chance. Ranks, so that a few far too long samples do not hide it."""
    centred = ranks(times) - (len(times) + 1) / 2
    square = float(centred @ centred)
    found = float(centred[1:] @ centred[:-1]) / square if square else 0.0
    return found if found > _BY_CHANCE / len(times) ** 0.5 else 0.0


def independent_samples(times: Times) -> float:
    """As many independent samples tell as much: N (1 - r) / (1 + r), for noise that fades by the
    factor r from sample to sample, AR(1)."""
    r = memory(times)
    return len(times) * (1 - r) / (1 + r)


def block_length(times: Times) -> int:
    """Of the blocks that are drawn, as long as the noise lasts.

    At least (N / 8)^(1/3), 2 at 27 samples and 5 at 1,000; for noise that lasts, AR(1) with the
    factor r, (sqrt(6) r / (1 - r^2))^(2/3) N^(1/3) (Carlstein, 1986), and at most a third of N:
    longer ones leave too few of them. docs/benchmarking.md has what was simulated.
    """
    n, r = len(times), memory(times)
    shortest = round(float(np.cbrt(n / 8)))
    lasting = round(float(np.cbrt(6 * n * (r / (1 - r * r)) ** 2)))
    return max(1, shortest, min(n // 3, lasting))


def _resampled_medians(series: Times, noise: Times, rng: np.random.Generator) -> Times | None:
    """Medians of resampled series, [S, N] -> [S, RESAMPLES]; all series are drawn alike, in blocks
    as ``noise``, [N], needs them. None where there is too little to draw from.

    Circular block bootstrap (Politis and Romano, 1992): neighbours in time are alike, and drawn one
    by one they make the interval too narrow.
    """
    if independent_samples(noise) < FEWEST:
        return None
    n, length = len(noise), block_length(noise)
    blocks = -(-n // length)
    medians = np.empty((len(series), RESAMPLES))
    rows = max(1, 1_000_000 // n)
    for begin in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - begin)
        starts = rng.integers(0, n, (count, blocks, 1))
        drawn = ((starts + np.arange(length)) % n).reshape(count, -1)[:, :n]
        medians[:, begin : begin + count] = np.median(series[:, drawn], axis=2)
    return medians
