"""How a network is trained, as plain values: no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; the same recipe, data and seed give the same network.

    ``batch`` counts the images of a step over all processes. ``lr`` is the peak of a linear
    warm-up over ``warmup_epochs`` and a cosine down to 0 (RepVGG paper, section 4.1).
    ``weight_decay`` is for kernels and the classifier, not for biases and batch norms; with
    ``custom_l2`` the kernels' is that of the equivalent kernel. ``mixup`` is alpha of its beta
    distribution (0: none), ``ema`` the decay of the moving average (None: none), ``aux_weight``
    what the losses of auxiliary heads count. ``precision`` is that of autocast; weights are in
    fp32. ``recompute`` keeps no activations inside blocks for the backward pass (gradient
    checkpointing).
    """

    epochs: int
    batch: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    custom_l2: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float | None = None
    aux_weight: float = 0.1
    precision: Precision = "fp32"
    channels_last: bool = False
    recompute: bool = False
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
