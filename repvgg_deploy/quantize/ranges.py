"""Thresholds from histograms: where a symmetric quantization clips.

    histogram = Histogram("stage1.0/Relu")
    for values in batches:  # of any sizes, in any order
        histogram.add(values)
    scale = mse(histogram) / LEVELS

A threshold T stands for the scale T / levels: |x| is rounded to 0, 1, ..., ``levels`` times the
scale, and what is larger becomes T. int8 has 127 levels. A tensor in which everything is zero has
the threshold 0.0, by every method: there is nothing to quantize, and the caller has to choose a
scale. The negative side is clipped like the positive one, though int8 has a step more there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .histograms import BINS, ChannelHistograms, Histogram

LEVELS = 127

#: Candidates of the MSE search, as parts of the peak: 2 % apart down to 1/32, then finer around
#: the best. The error is flat around its minimum: half a step off costs less than 0.1 %.
_COARSE = 0.98 ** np.arange(172)
_FINE = np.linspace(1.02, 0.98, 21)


def minmax(histogram: Histogram) -> float:
    """The largest |x|: nothing is clipped."""
    return histogram.peak


def percentile(histogram: Histogram, percent: float = 99.99) -> float:
    """The magnitude under which ``percent`` of all values lie, zeros too; linear inside a bin."""
    if not 0 < percent <= 100:
        raise ValueError(f"percent is {percent}; it is above 0 and at most 100")
    counted = np.concatenate([[0], np.cumsum(histogram.counts)])
    wanted = counted[-1] * (percent / 100)
    after = int(np.searchsorted(counted, wanted))  # the first edge with that many below
    if histogram.peak == 0 or after == 0:
        return 0.0
    inside = (wanted - counted[after - 1]) / (counted[after] - counted[after - 1])
    return min(histogram.peak, float(after - 1 + inside) * histogram.limit / BINS)


def mse(histogram: Histogram, levels: int = LEVELS) -> float:
    """The threshold with the smallest mean squared error, of rounding and of clipping."""
    return float(mse_thresholds(histogram.as_row(), levels)[0])


def mse_thresholds(histograms: ChannelHistograms, levels: int = LEVELS) -> NDArray[np.float64]:
    """The same for each channel: [C]."""
    peaks = histograms.peaks
    thresholds = np.empty_like(peaks)
    for some in _slices(len(peaks)):
        errors = _SquaredErrors(histograms, some, levels)
        coarse = errors.best(peaks[some, None] * _COARSE)
        thresholds[some] = errors.best(np.minimum(coarse[:, None] * _FINE, peaks[some, None]))
    return thresholds


def mean_squared_errors(
    histograms: ChannelHistograms, thresholds: NDArray[np.float64], levels: int = LEVELS
) -> NDArray[np.float64]:
    """The mean of (x - Q(x))^2 of each channel [C], where these thresholds [C] quantize it."""
    sums = [
        _SquaredErrors(histograms, some, levels).of(thresholds[some])
        for some in _slices(len(thresholds))
    ]
    means: NDArray[np.float64] = np.concatenate(sums) / np.maximum(histograms.counts.sum(axis=1), 1)
    return means


def kl(histogram: Histogram, levels: int = LEVELS) -> float:
    """The threshold whose quantized distribution diverges least from the values' own.

    S. Migacz, 8-bit inference with TensorRT (GTC 2017): for every i the first i bins, with all that
    lies beyond counted into the last of them, against the same bins without it, put together to
    ``levels`` + 1 and spread again over those that are not empty. Zeros are no part of the
    distribution: the first bin counts as much as the second, as in NVIDIA's pytorch-quantization.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    width, groups = histogram.limit / BINS, levels + 1
    used = int(histogram.peak / width) + 1
    if used <= groups:
        return histogram.peak
    lengths = np.arange(groups, used + 1)
    best = int(lengths[_divergences(counts, lengths, groups).argmin()])
    return min((best + 0.5) * width, histogram.peak)


#: The methods by name, with their usual settings.
METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "kl": kl,
}


def _divergences(
    counts: NDArray[np.float64], lengths: NDArray[np.int64], groups: int
) -> NDArray[np.float64]:
    """KL(P || Q) for each number of bins kept, infinite where Q misses some of P.

    Q is the same all over a group, so the sum over bins of P log Q is one over groups, which
    cumulative sums give for all candidates at once.
    """
    below = _cumulated(counts)
    total, kept = below[-1], below[lengths]
    last = counts[lengths - 1] + (total - kept)
    entropies = _cumulated(_x_log(counts, counts))[lengths - 1] + _x_log(last, last)

    edges = np.arange(groups + 1) * lengths[:, None] // groups
    quantized = np.diff(below[edges])
    filled = np.diff(_cumulated(counts > 0)[edges])
    filled[:, -1] += (counts[lengths - 1] == 0) & (last > 0)
    reference = quantized.copy()
    reference[:, -1] += total - kept
    spread = np.divide(quantized, filled, out=np.zeros_like(quantized), where=filled > 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0: P has values where Q has none
        crossed = _x_log(reference, spread).sum(axis=1)
        divergences: NDArray[np.float64] = (entropies - crossed) / total + np.log(kept / total)
    return np.where(kept > 0, divergences, np.inf)


def _cumulated(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """The sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """x log y, 0 where x is."""
    logarithm = np.log(y, out=np.zeros_like(y), where=x > 0)
    product: NDArray[np.float64] = x * logarithm
    return product


class _SquaredErrors:
    """Sums of (x - Q(x))^2 over the values of some channels, for any thresholds.

    Q(x) climbs by one scale s at (j - 1/2) s for j = 1 .. levels. With m of these climbs below x,
    they take the sum of 2 s (x - (j - 1/2) s) = 2 m s x - (m s)^2 = x^2 - (x - m s)^2 off x^2. So
    one table, of the sums of max(x - e, 0) over all x for every e, gives the error of any
    threshold, what it clips too. Values are taken as spread evenly in a bin; those of the first
    bin as zeros, which most of them are after a ReLU.
    """

    def __init__(self, histograms: ChannelHistograms, some: slice, levels: int) -> None:
        counts = histograms.counts[some].astype(np.float64)
        counts[:, 0] = 0
        middles = np.arange(BINS) + 0.5
        above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]  # values above the bin's lower edge
        excess = np.cumsum((above - counts / 2)[:, ::-1], axis=1)[:, ::-1]  # by how much, in bins
        self._counts, self._above, self._excess = counts.ravel(), above.ravel(), excess.ravel()
        # no product of BLAS, whose threads would decide how it is rounded
        self._squares = np.einsum("cb,b->c", counts, middles**2 + 1 / 12)
        self._first = BINS * np.arange(len(counts))[:, None]
        self._width = histograms.limits[some] / BINS
        self._levels = levels

    def of(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """[channels], for one threshold each."""
        scales = thresholds / self._width / self._levels
        edges = np.minimum(scales[:, None] * (np.arange(self._levels) + 0.5), BINS)
        lower = np.minimum(edges.astype(np.int64), BINS - 1)  # nothing lies beyond the last bin
        inside = edges - lower
        at = lower + self._first
        excess = self._excess[at] - inside * (self._above[at] - inside / 2 * self._counts[at])
        errors: NDArray[np.float64] = self._squares - 2 * scales * excess.sum(axis=1)
        return errors * self._width**2

    def best(self, candidates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each channel's candidates [channels, n] the best, the first among equals."""
        errors = np.stack([self.of(column) for column in candidates.T], axis=1)
        best: NDArray[np.float64] = candidates[np.arange(len(candidates)), errors.argmin(axis=1)]
        return best


def _slices(channels: int) -> list[slice]:
    """Few channels at a time, so that the tables stay small."""
    return [slice(start, start + 64) for start in range(0, channels, 64)]
