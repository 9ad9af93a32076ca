"""Histograms of a tensor's magnitudes: they grow with the values and lose no count.

A row of bins divides [0, limit) evenly, and its limit is a power of two. So the bin of a value is
computed without rounding, and where the limit doubles, two neighbours become one bin. What was
added decides the result to the last count; in which order, and in how many parts, does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

#: A limit is at most twice the largest value, so more than 2,048 bins lie over the range in use.
BINS = 4096
#: Exponent of the smallest limit: what is smaller by far than any activation shares its bins.
_SMALLEST = -100
#: Values of a tensor that are counted at a time, and the tables that they are counted in.
_AT_A_TIME, _TABLES = 2**16, 4
_TABLE_STARTS = BINS * (np.arange(_AT_A_TIME) % _TABLES)


class ChannelHistograms:
    """One histogram of |x| for each channel of the tensor ``name``, with a limit of its own.

    ``counts`` is [C, BINS], ``limits`` [C], the exact ``minimum`` and ``maximum`` [C] (+inf and
    -inf before the first value). Memory: 32 KB a channel, however many values come.
    """

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self.counts: NDArray[np.int64] = np.zeros((channels, BINS), np.int64)
        self.minimum: NDArray[np.float64] = np.full(channels, np.inf)
        self.maximum: NDArray[np.float64] = np.full(channels, -np.inf)
        self._exponents = np.full(channels, _SMALLEST)
        self._first_bins = BINS * np.arange(channels)[:, None]

    @property
    def limits(self) -> NDArray[np.float64]:
        """Where the last bin of each channel ends: above its peak."""
        limits: NDArray[np.float64] = np.ldexp(1.0, self._exponents)
        return limits

    @property
    def peaks(self) -> NDArray[np.float64]:
        """The largest |x| of each channel, exact; 0 for a dead channel, and for no values."""
        return np.maximum(np.maximum(-self.minimum, self.maximum), 0.0)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of [N, C, ...].

        Raises:
            UserError: NaN or infinity among them.
        """
        if not values.size:
            return
        rows = values.reshape(len(values), len(self.counts), -1)
        with np.errstate(invalid="ignore"):  # NaN, which is refused below
            lowest, highest = rows.min(axis=(0, 2)), rows.max(axis=(0, 2))
        if not (np.isfinite(lowest) & np.isfinite(highest)).all():
            raise UserError(
                f"the network gives NaN or infinity in its tensor {self.name!r} on the calibration "
                "images; check the weights and the preprocessing, for no range can be measured."
            )
        self.minimum = np.minimum(self.minimum, lowest)
        self.maximum = np.maximum(self.maximum, highest)
        self._grow()
        scales = np.ldexp(np.float32(BINS), -self._exponents)
        if len(scales) == 1:
            self.counts[0] += _counted(rows.reshape(-1), scales[0])
            return
        scaled = rows * scales[:, None]
        bins = np.abs(scaled, out=scaled).astype(np.int64)
        bins += self._first_bins
        np.add.at(self.counts.reshape(-1), bins.reshape(-1), 1)

    def total(self) -> Histogram:
        """The histogram of the whole tensor: the same as if it had been counted in one."""
        whole = Histogram(self.name)
        row = whole.as_row()
        row.minimum[0], row.maximum[0] = self.minimum.min(), self.maximum.max()
        row._exponents[0] = self._exponents.max()
        for doublings, channels in _groups(row._exponents[0] - self._exponents):
            row.counts[0] += _merged(self.counts[channels], doublings).sum(axis=0)
        return whole

    def _grow(self) -> None:
        peaks = self.peaks
        needed = np.where(peaks > 0, np.frexp(peaks)[1], _SMALLEST)  # peak < 2 ^ needed
        exponents = np.maximum(needed, self._exponents)
        for doublings, channels in _groups(exponents - self._exponents):
            if doublings:
                self.counts[channels] = _merged(self.counts[channels], doublings)
        self._exponents = exponents


class Histogram:
    """The histogram of |x| of the tensor ``name``, whatever its shape.

    ``minimum`` and ``maximum`` are exact (+inf and -inf before the first value).
    """

    def __init__(self, name: str) -> None:
        self._row = ChannelHistograms(name, 1)
        self.name = name

    @property
    def counts(self) -> NDArray[np.int64]:
        """[BINS]; bin i holds the values with i <= |x| / limit * BINS < i + 1."""
        counts: NDArray[np.int64] = self._row.counts[0]
        return counts

    @property
    def limit(self) -> float:
        """Where the last bin ends: above the peak."""
        return float(self._row.limits[0])

    @property
    def peak(self) -> float:
        """The largest |x|, exact; 0 where there was nothing but zeros, or no value."""
        return float(self._row.peaks[0])

    @property
    def minimum(self) -> float:
        return float(self._row.minimum[0])

    @property
    def maximum(self) -> float:
        return float(self._row.maximum[0])

    def add(self, values: NDArray[np.float32]) -> None:
        """Count all values; UserError for NaN or infinity."""
        self._row.add(values.reshape(1, 1, -1))

    def as_row(self) -> ChannelHistograms:
        """The same histogram as the only channel of ChannelHistograms."""
        return self._row


def _counted(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int64]:
    """How many of the values, times the scale, fall in each bin.

    Few at a time, which the cache holds. Neighbours are counted in tables of their own: after a
    ReLU they are often both zero, and one increment of a number waits for the other.
    """
    tables = np.zeros((_TABLES, BINS), np.int64)
    for start in range(0, len(values), _AT_A_TIME):
        scaled = values[start : start + _AT_A_TIME] * scale
        bins = np.abs(scaled, out=scaled).astype(np.int64)
        bins += _TABLE_STARTS[: len(bins)]
        np.add.at(tables.reshape(-1), bins, 1)
    counts: NDArray[np.int64] = tables.sum(axis=0)
    return counts


def _groups(doublings: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """(number of doublings, the channels whose limits double so often) each."""
    return [(int(n), np.flatnonzero(doublings == n)) for n in np.unique(doublings)]


def _merged(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Rows whose limits have doubled so often; the upper bins are empty then."""
    together = min(2**doublings, BINS)
    kept = BINS // together
    merged = np.zeros_like(counts)
    merged[:, :kept] = counts.reshape(len(counts), kept, together).sum(axis=2)
    return merged
