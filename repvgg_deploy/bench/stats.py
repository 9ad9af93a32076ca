"""Statistics of timings: what a sample count supports, and the interval of a ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

#: The chance that no sample lies beyond a percentile that is printed is at most this.
_BEYOND = 0.025
#: Tukey's fences are this many interquartile ranges from the quartiles (Tukey, 1977).
_FENCE = 1.5
#: The fewest samples of each from which a ratio gets an interval: fewer hide their own spread.
INTERVAL_SAMPLES = 6
RESAMPLES = 2000
#: A median that moved by no more than this share within a run is no matter.
LARGEST_DRIFT = 0.03


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
    rounds = min(len(baseline), len(candidate))
    both = np.array([baseline[:rounds], candidate[:rounds]], dtype=float)
    value = float(np.median(both[0]) / np.median(both[1]))
    if rounds < INTERVAL_SAMPLES:
        return Ratio(value, None, None)
    medians = _resampled_medians(both, np.random.default_rng(seed))
    return _interval(value, medians[0] / medians[1])


def change(old: Sequence[float], new: Sequence[float], *, seed: int = 0) -> Ratio:
    """Median of the new over that of the old (above 1: slower); the two were measured apart."""
    value = float(np.median(new) / np.median(old))
    if min(len(old), len(new)) < INTERVAL_SAMPLES:
        return Ratio(value, None, None)
    rng = np.random.default_rng(seed)
    above, below = (
        _resampled_medians(np.array([times], dtype=float), rng)[0] for times in (new, old)
    )
    return _interval(value, above / below)


def drift(seconds: Sequence[float]) -> Drift:
    """First half against second half."""
    half = len(seconds) // 2
    if not half:
        return Drift(Ratio(1.0, None, None), steady=True)
    ratio = change(seconds[-half:], seconds[:half])
    return Drift(ratio, steady=not differs(ratio))


def against_itself(seconds: Sequence[float]) -> Ratio:
    """A against A: even rounds over odd ones, which nothing should tell apart."""
    return speedup(seconds[0::2], seconds[1::2])


def differs(ratio: Ratio) -> bool:
    """The ratio is not 1: by more than LARGEST_DRIFT, and beyond its interval."""
    if ratio.low is None or ratio.high is None:
        return False
    return abs(ratio.value - 1) > LARGEST_DRIFT and not ratio.low <= 1 <= ratio.high


def _resampled_medians(series: Times, rng: np.random.Generator) -> Times:
    """Medians of resampled series, [S, N] -> [S, RESAMPLES]; all series are drawn alike.

    Circular block bootstrap (Politis and Romano, 1992): neighbours in time are alike, and drawn one
    by one they make the interval too narrow. Blocks grow with the cube root of N, to 2 at 27 and 5
    at 1,000: longer ones leave too few of them. docs/benchmarking.md has what was simulated.
    """
    n = series.shape[1]
    length = max(1, round((n / 8) ** (1 / 3)))
    blocks = -(-n // length)
    medians = np.empty((len(series), RESAMPLES))
    rows = max(1, 1_000_000 // n)
    for begin in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - begin)
        starts = rng.integers(0, n, (count, blocks, 1))
        drawn = ((starts + np.arange(length)) % n).reshape(count, -1)[:, :n]
        medians[:, begin : begin + count] = np.median(series[:, drawn], axis=2)
    return medians


def _interval(value: float, ratios: Times) -> Ratio:
    """Bootstrap percentile interval (Efron and Tibshirani, 1993, chapter 13)."""
    low, high = np.percentile(ratios, (2.5, 97.5)).tolist()
    return Ratio(value, low, high)
