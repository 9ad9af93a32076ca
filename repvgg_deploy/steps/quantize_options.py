"""What is asked of quantize."""

from __future__ import annotations

from dataclasses import dataclass

from ..quantize.quality import Likeness
from ..sqnr import LOWEST

#: The method that a sidecar names where the weights were trained for int8.
TRAINED = "qat"


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

    @property
    def bounded(self) -> bool:
        """Whether layers may stay in float to reach a bound."""
        return self.min_sqnr_db is not None or self.max_drop is not None

    def hold(self, found: Likeness) -> bool:
        """Whether the bounds hold; never of outputs with NaN or infinity."""
        least = LOWEST if self.min_sqnr_db is None else self.min_sqnr_db
        enough = found.sqnr_db > LOWEST and found.sqnr_db >= least
        most, drop = self.max_drop, found.top1_drop
        return enough and (most is None or (drop is not None and drop <= most))
