"""Layers that stay in float, so that a bound on the loss holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..data.spool import spooled
from ..errors import CheckFailed
from ..quantize.collect import Batches
from ..quantize.quality import Likeness
from ..quantize.quantizer import QuantizedNetwork
from ..quantize.sensitivity import (
    Kept,
    Sensitivity,
    float_share,
    keep_until,
    measure_layers,
    speed_cost,
)
from .calibration import BATCH, Calibration
from .quantize_options import QuantizeOptions

#: Decibel beyond the bound, for what fp16 and ONNX Runtime's own sums cost.
_MARGIN_DB = 0.2


@dataclass(frozen=True)
class Fallback:
    """``ranking`` of all quantized layers, and what was ``kept`` in float of them."""

    ranking: list[Sensitivity]
    kept: Kept
    float_type: str

    @property
    def cost(self) -> str:
        """What the kept layers are of the work, in words."""
        if self.float_type == "fp16":
            return speed_cost(self.ranking, self.kept.names)
        return f"{float_share(self.ranking, self.kept.names):.1%} of the multiply-adds run in fp32"


def reach_bounds(
    network: QuantizedNetwork,
    calibration: Calibration,
    options: QuantizeOptions,
    progress: Callable[[str, float], None],
) -> tuple[QuantizedNetwork, Fallback]:
    """The network with as few layers in float as let the bounds hold on the measured images.

    Raises:
        CheckFailed: they do not hold even with every layer in float.
        UserError: a bound on top-1, and images without labels.
    """

    def reached(found: Likeness) -> bool:
        enough = options.min_sqnr_db is None or found.sqnr_db >= options.min_sqnr_db + _MARGIN_DB
        most, drop = options.max_drop, found.top1_drop
        right = most is None or (drop is not None and drop <= most)
        return enough and right

    labels = calibration.measured.labels if options.max_drop is not None else None
    with spooled(calibration.measured) as images:

        def batches() -> Batches:
            return (images[i : i + BATCH] for i in range(0, len(images), BATCH))

        ranking = measure_layers(network, batches, progress)
        kept = keep_until(network, ranking, batches, reached, labels, progress)
    if not kept.holds or len(kept.names) == len(network.layers):
        raise CheckFailed(
            f"{calibration.measured.path}: on these images the bounds hold only with every layer "
            "in float; ask for less, or export fp16."
        )
    layers = [layer for layer in network.layers if layer.name not in kept.names]
    return replace(network, layers=layers), Fallback(ranking, kept, options.float_type)
