"""Inputs for a proof: seeded noise and the extremes, or real images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

EXTREMES = 4


def probe_inputs(
    channels: int, height: int, width: int, count: int = 8, seed: int = 0
) -> NDArray[np.float32]:
    """[count, C, H, W]: normal noise, and in the last places black, white, one pixel, stripes.

    The extremes are 3 standard deviations of a normalised image away from zero.

    Raises:
        UserError: ``count`` below 1; a proof on no samples proves nothing.
    """
    if count < 1:
        raise UserError(f"{count} samples prove nothing; use at least 1.")
    batch = np.random.default_rng(seed).standard_normal((count, channels, height, width))
    extremes = np.zeros((EXTREMES, channels, height, width))
    extremes[0] = -3
    extremes[1] = 3
    extremes[2, :, height // 2, width // 2] = 3
    extremes[3, :, :, ::2] = 3
    used = min(EXTREMES, count - 1)  # the first sample is always noise
    if used:
        batch[-used:] = extremes[:used]
    return batch.astype(np.float32)
