"""What is asked of quantize."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuantizeOptions:
    """``method`` is one of RECIPES; ``float_type``, fp16 or fp32, is all that is not int8."""

    method: str = "thorough"
    float_type: str = "fp16"
    stem: bool = True
    linear: bool = False
    seed: int = 0
    min_sqnr_db: float | None = None
    max_drop: float | None = None
