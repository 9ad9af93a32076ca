"""The signal to quantization noise ratio (SQNR) of outputs beside others, in decibel.

It is a float that orders any two results: ``EXACT``, infinity, where the outputs are equal;
``LOWEST`` where one holds NaN or infinity, or where the signal is zero and the error is not. JSON
has null for ``EXACT``, text says "exact".
"""

from __future__ import annotations

import math

EXACT = math.inf
#: No float32 output can be as far off and still be finite.
LOWEST = -1000.0
#: An int8 network below this, beside the one in float, has lost its answers, not some precision.
LEAST_SQNR_DB = 15.0


def decibel(signal: float, error: float) -> float:
    """10 log10(signal / error) of two sums of squares; never NaN and never below ``LOWEST``."""
    if error == 0 and math.isfinite(signal):
        return EXACT
    if not (0 < signal < math.inf and 0 < error < math.inf):
        return LOWEST
    return max(LOWEST, 10 * (math.log10(signal) - math.log10(error)))  # the quotient may overflow


def from_json(value: float | None) -> float:
    """What ``to_json`` wrote."""
    return EXACT if value is None else value


def decibel_text(sqnr_db: float, digits: int = 1) -> str:
    """``31.4``, for a table of decibel."""
    return "exact" if sqnr_db == EXACT else f"{sqnr_db:.{digits}f}"


def sqnr_text(sqnr_db: float, digits: int = 1) -> str:
    """``SQNR 31.4 dB``"""
    if sqnr_db == EXACT:
        return "SQNR exact (the outputs are equal)"
    return f"SQNR {decibel_text(sqnr_db, digits)} dB"
