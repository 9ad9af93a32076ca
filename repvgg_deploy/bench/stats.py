"""Statistics of timings: percentiles that the sample count supports, and a ratio's interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The fewest samples from which a percentile is printed: one sample has to lie beyond it.
P90_SAMPLES, P99_SAMPLES = 10, 100
#: The fewest samples of each from which a ratio gets an interval: fewer hide their own spread.
INTERVAL_SAMPLES = 6


@dataclass(frozen=True)
class Summary:
    """Seconds a step. ``p90`` and ``p99`` are None where there are too few samples for them."""

    samples: int
    median: float
    p90: float | None
    p99: float | None
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Ratio:
    """Median of the baseline / median of the candidate (above 1: faster), 95 % interval.

    ``low`` and ``high`` are None where there are too few samples for an interval.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Drift:
    """The median of the first half of the samples over that of the second (above 1: it got
    faster); ``steady`` is False where that differs from 1 by more than the spread explains."""

    ratio: Ratio
    steady: bool


def summarize(seconds: list[float]) -> Summary:
    """Median and percentiles (linear interpolation between order statistics)."""
    times, n = np.asarray(seconds), len(seconds)
    return Summary(
        samples=n,
        median=float(np.median(times)),
        p90=float(np.percentile(times, 90)) if n >= P90_SAMPLES else None,
        p99=float(np.percentile(times, 99)) if n >= P99_SAMPLES else None,
        minimum=float(times.min()),
        maximum=float(times.max()),
    )


def speedup(
    baseline: list[float], candidate: list[float], resamples: int = 2000, seed: int = 0
) -> Ratio:
    """Ratio of medians with a bootstrap percentile interval (Efron & Tibshirani, 1993, ch. 13)."""
    value = float(np.median(baseline) / np.median(candidate))
    if min(len(baseline), len(candidate)) < INTERVAL_SAMPLES:
        return Ratio(value, None, None)
    rng = np.random.default_rng(seed)

    def medians(seconds: list[float]) -> NDArray[np.float64]:
        times = np.asarray(seconds)
        drawn = times[rng.integers(0, len(times), (resamples, len(times)))]
        return np.asarray(np.median(drawn, axis=1))

    low, high = np.percentile(medians(baseline) / medians(candidate), (2.5, 97.5))
    return Ratio(value, float(low), float(high))
