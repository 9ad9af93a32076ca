"""Integer and bool outputs, which flip where rounding meets a boundary: counted, not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A reference that flips nothing may be a lucky one. Where both flip at one rate, the chance that
#: it shows none and the candidate more than this is below 1 in 1,000, whatever the rate.
_FLIPS = 8
#: That grace is for maps of many values: never more than one value in so many.
_ONE_IN = 100
#: Whatever the reference flips, a candidate that flips this share of all values more is wrong.
_SHARE = 10


@dataclass(frozen=True)
class Agreement:
    """How many of ``values`` differ from the float64 truth; the candidate may have ``limit``."""

    name: str
    values: int
    reference: int
    candidate: int
    limit: int

    @property
    def passed(self) -> bool:
        return self.candidate <= self.limit

    @property
    def reason(self) -> str:
        return (
            f"{self.candidate} of {self.values} values differ from the float64 truth, "
            f"{self.reference} of the reference's do, and {self.limit} may"
        )


def agree(
    name: str,
    truth: Sequence[NDArray[Any]],
    reference: Sequence[NDArray[Any]],
    candidate: Sequence[NDArray[Any]],
    ratio: float,
) -> Agreement:
    """Judge an output, its rounds one by one: their shapes may hang on the values."""
    values = sum(array.size for array in truth)
    own = sum(map(_differing, reference, truth))
    grace = min(_FLIPS, values // _ONE_IN)
    limit = int(min(ratio * own + grace, own + values // _SHARE))
    return Agreement(name, values, own, sum(map(_differing, candidate, truth)), limit)


def _differing(values: NDArray[Any], truth: NDArray[Any]) -> int:
    """All of them where the shapes differ."""
    if values.shape != truth.shape:
        return max(truth.size, 1)
    return int(np.sum(values != truth))
