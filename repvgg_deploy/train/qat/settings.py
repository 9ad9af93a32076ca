"""How a network is trained for int8, as plain values: no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Scales = Literal["fixed", "learned"]

#: What a checkpoint holds the trainable network under: never ``state_dict``, for these weights are
#: not a network's without their scales. The moving average has ``_ema`` behind it.
STATE_KEY = "qat_state"


@dataclass(frozen=True)
class QatSettings:
    """``start`` names the recipe of post-training quantization (quantizer.RECIPES) that training
    starts from. ``scales`` stay as that chose them, or are learned with the weights.

    ``float_type`` (fp16 or fp32) is all that is not int8 in what is exported; ``stem`` and
    ``linear`` say which layers are in int8, as find_layers has them. ``reinsert_bn`` trains with a
    batch norm behind each convolution, ``distill`` towards the float network's logits, not labels.
    """

    start: str = "thorough"
    scales: Scales = "fixed"
    float_type: Literal["fp32", "fp16"] = "fp16"
    stem: bool = True
    linear: bool = False
    reinsert_bn: bool = False
    distill: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
