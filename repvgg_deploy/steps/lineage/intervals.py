"""The 95 % interval of a median that supposes no distribution."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

_OUTSIDE = 0.025


def median_interval(samples: NDArray[np.float64]) -> tuple[float, float] | None:
    """From order statistics: the number of samples below the median is binomial with 1/2
    (David & Nagaraja, Order Statistics, 2003, section 7.1); None with fewer than 6 samples."""
    ordered, n = np.sort(samples), len(samples)
    rank = _rank(n)
    return None if rank == 0 else (float(ordered[rank - 1]), float(ordered[n - rank]))


def _rank(n: int) -> int:
    """The largest k for which fewer than k samples lie below with at most 2.5 % chance."""
    if n > 1000:  # where the normal approximation is off by less than one rank
        return int((n - 1.96 * n**0.5) / 2)
    rank, below = 0, comb(n, 0)
    while below <= _OUTSIDE * 2**n:
        rank += 1
        below += comb(n, rank)
    return rank
