"""Shares and their differences with 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """A share, or a difference of shares, with its 95 % interval; all from -1 to 1."""

    value: float
    low: float
    high: float


def share(hits: int, samples: int) -> Interval:
    """``hits`` / ``samples`` with Wilson's score interval (Wilson, 1927, JASA 22:209).

    It holds for shares near 1 too, where the normal approximation does not.
    """
    p, z2 = hits / samples, _Z**2
    centre = (p + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _Z / (1 + z2 / samples) * sqrt(p * (1 - p) / samples + z2 / (4 * samples**2))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def paired_difference(lost: int, gained: int, samples: int) -> Interval:
    """How much larger the candidate's share of right answers is than the reference's.

    Both answered the same ``samples``: ``lost`` are those that the reference alone had right,
    ``gained`` those that the candidate alone had right. Where two networks mostly agree this is
    many times narrower than the intervals of their shares. The interval is Wald's with half a
    sample added to each of the four outcomes (Agresti & Min, 2005, Statistics in Medicine 24:729).
    """
    value, n = (gained - lost) / samples, samples + 2
    centre = (gained - lost) / n
    half = _Z * sqrt(gained + lost + 1 - (gained - lost) ** 2 / n) / n
    return Interval(value, max(-1.0, centre - half), min(1.0, centre + half))
