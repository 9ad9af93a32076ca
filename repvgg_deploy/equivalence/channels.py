"""The worst channel of an output: an average over many channels hides one that is wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: A channel may be this many times as far off as the average may: few values, by chance computed
#: almost exactly by the reference, are a poor ruler.
CHANNEL_FACTOR = 8.0
#: A channel this much quieter than the average one counts as silent.
SILENT = 1e-6
#: Alone, a channel counts as no quieter than this: rounding errors come from louder ones, and where
#: the reference happens to have none, a small error would look large.
QUIET = 1 / 16

#: Where the truth is zero everywhere, relative errors are huge, but no float32 value squared is
#: infinite: that would read as an infinite output.
_LEAST_SCALE = 1e-110

Array = NDArray[np.float64]


def channel_errors(values: Array, truth: Array, least: float = SILENT) -> Array:
    """The relative error of each channel, [C], of finite arrays [N, C, ...].

    A channel counts as at least ``least`` times as loud as the average one.
    """
    axes = tuple(axis for axis in range(truth.ndim) if axis != 1)
    scale = np.sqrt((truth**2).sum(axes))
    floor = least * np.sqrt((scale**2).mean())
    error = np.sqrt(((values - truth) ** 2).sum(axes))
    relative: Array = error / np.maximum(scale, max(floor, _LEAST_SCALE))
    return relative


def wrong_channel(
    truth: Array, reference: Array, candidate: Array, noise: float, limit: float
) -> str:
    """What is wrong with the worst channel, empty if nothing is.

    Its error is measured against the reference's in the same channel, or ``noise``, the average
    one's, if that is larger.
    """
    if not all(np.isfinite(array).all() for array in (truth, reference, candidate)):
        return ""  # which the average tells
    most = CHANNEL_FACTOR * limit
    own = np.maximum(channel_errors(reference, truth, QUIET), noise)
    ratios = channel_errors(candidate, truth, QUIET) / own
    channel = int(ratios.argmax())
    if ratios[channel] <= most:
        return ""
    return (
        f"channel {channel} alone is {ratios[channel]:.2g} times as far from the float64 truth as "
        f"the reference's own rounding error {own[channel]:.2e}, more than {most:g}"
    )
