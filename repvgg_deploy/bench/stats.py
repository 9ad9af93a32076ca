"""Statistics of timings: what a sample count supports, and the interval of a ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import FEWEST, Estimate, alone, in_turn, ranks

#: The chance that no sample lies beyond a percentile that is printed is at most this.
_BEYOND = 0.025
#: Tukey's fences are this many interquartile ranges from the quartiles (Tukey, 1977).
_FENCE = 1.5
#: The fewest rounds from which a ratio gets an interval.
INTERVAL_SAMPLES = FEWEST
#: A median that moved by no more than this share within a run is no matter.
LARGEST_DRIFT = 0.03
#: Standard deviations that leave 0.4 % in both tails together: a twelfth of 5 %, because a contest
#: of six subjects makes twelve checks.
_DOUBTED = 2.878


@dataclass(frozen=True)
class Summary:
    """Seconds a step. A percentile is None where there are too few samples for it.

    ``q25`` and ``q75`` are the quartiles; ``outliers`` counts the samples beyond Tukey's fences
    (1.5 interquartile ranges below q25 or above q75), which are in all the other figures too.
    """

    samples: int
    median: float
    q25: float
    q75: float
    p90: float | None
    p95: float | None
    p99: float | None
    minimum: float
    maximum: float
    outliers: int


@dataclass(frozen=True)
class Ratio:
    """One median over another, with a 95 % interval.

    ``low`` and ``high`` are None where there are too few samples for an interval, or noise lasts
    so long that they amount to too few.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Drift:
    """The median of the first half of the samples over that of the second (above 1: it got
    faster); ``steady`` is False where that differs from 1 by more than LARGEST_DRIFT, and the
    halves by more than independent noise does in 0.4 % of cases."""

    ratio: Ratio
    steady: bool


def supports(samples: int, share: float) -> bool:
    """Whether that many samples support a percentile (``share`` 0.9: p90).

    A distribution-free 95 % interval of a percentile lies between two order statistics (David and
    Nagaraja, Order Statistics, 2003, section 7.1). Its upper end is inside the sample only if all
    samples lie below the percentile with a chance, share ** samples, of at most 2.5 %. So p90
    takes 36 samples, p95 72 and p99 368.
    """
    return share**samples <= _BEYOND


def summarize(seconds: Sequence[float]) -> Summary:
    """Median, quartiles and percentiles (linear interpolation between order statistics)."""
    times, n = np.asarray(seconds, dtype=float), len(seconds)
    q25, median, q75 = np.percentile(times, (25, 50, 75)).tolist()
    fence = _FENCE * (q75 - q25)

    def percentile(share: float) -> float | None:
        return float(np.percentile(times, 100 * share)) if supports(n, share) else None

    return Summary(
        samples=n,
        median=median,
        q25=q25,
        q75=q75,
        p90=percentile(0.90),
        p95=percentile(0.95),
        p99=percentile(0.99),
        minimum=float(times.min()),
        maximum=float(times.max()),
        outliers=int(np.sum((times < q25 - fence) | (times > q75 + fence))),
    )


def speedup(baseline: Sequence[float], candidate: Sequence[float], *, seed: int = 0) -> Ratio:
    """Median of the baseline over that of the candidate (above 1: faster); samples of one round
    stand at one place in both."""
    return _ratio(in_turn(baseline, candidate, np.random.default_rng(seed)))


def change(old: Sequence[float], new: Sequence[float], *, seed: int = 0) -> Ratio:
    """Median of the new over that of the old (above 1: slower); the two were measured apart."""
    rng = np.random.default_rng(seed)
    return _ratio(alone(new, rng).over(alone(old, rng)))


def relative_change(
    old: tuple[Sequence[float], Sequence[float]],
    new: tuple[Sequence[float], Sequence[float]],
    *,
    seed: int = 0,
) -> Ratio:
    """``change`` of a subject held against that of the baseline; each run gives the samples of both
    (baseline first), taken in turn. What a whole run has, both share, and it cancels."""
    rng = np.random.default_rng(seed)
    return _ratio(in_turn(*old, rng).over(in_turn(*new, rng)))


def drift(seconds: Sequence[float]) -> Drift:
    """First half against second half."""
    half = len(seconds) // 2
    return _drift(seconds[:half], seconds[len(seconds) - half :])


def against_itself(seconds: Sequence[float]) -> Drift:
    """A against A: rounds 0, 1, 4, 5, ... as the first half, and 2, 3, 6, 7, ... as the second.

    Nothing should tell them apart. Even and odd rounds are not alike: at the turn of a pair its
    last step runs twice in a row, and so is always the first of an odd round.
    """
    halves: tuple[list[float], list[float]] = ([], [])
    for i, time in enumerate(seconds):
        halves[i // 2 % 2].append(time)
    return _drift(*halves)


def _drift(first: Sequence[float], second: Sequence[float]) -> Drift:
    if not first or not second:
        return Drift(Ratio(1.0, None, None), steady=True)
    ratio = change(second, first)
    moved = abs(ratio.value - 1) > LARGEST_DRIFT
    return Drift(ratio, steady=not (moved and _told_apart(first, second)))


def _told_apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Wilcoxon's rank sum test in its normal approximation (Mann and Whitney, 1947), which takes
    six samples of each. It has no blocks: noise that lasts as long as half a run is drift."""
    n, m = len(a), len(b)
    above = float(ranks(np.array([*a, *b]))[:n].sum()) - n * (n + 1) / 2
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return abs(above - n * m / 2) > _DOUBTED * deviation


def _ratio(estimate: Estimate) -> Ratio:
    """Bootstrap percentile interval (Efron and Tibshirani, 1993, chapter 13)."""
    if estimate.drawn is None:
        return Ratio(estimate.value, None, None)
    low, high = np.percentile(estimate.drawn, (2.5, 97.5)).tolist()
    return Ratio(estimate.value, low, high)
