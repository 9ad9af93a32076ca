"""Layers that stay in float, so that a bound on the loss holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.spool import spooled
from ..errors import CheckFailed
from ..quantize.collect import Batches
from ..quantize.quality import Likeness
from ..quantize.quantizer import QuantizedNetwork
from ..quantize.sensitivity import Kept, Sensitivity, keep_until, measure_layers, speed_cost
from .calibration import BATCH, Calibration

#: Decibel beyond the bound, for what fp16 and ONNX Runtime's own sums cost.
_MARGIN_DB = 0.2


@dataclass(frozen=True)
class Fallback:
    """``ranking`` of all quantized layers, and what was ``kept`` in float of them."""

    ranking: list[Sensitivity]
    kept: Kept

    @property
    def cost(self) -> str:
        return speed_cost(self.ranking, self.kept.names)


def reach_bounds(
    source: Path,
    network: QuantizedNetwork,
    calibration: Calibration,
    min_sqnr_db: float | None,
    max_drop: float | None,
    progress: Callable[[str, float], None],
) -> tuple[QuantizedNetwork, Fallback]:
    """The network with as few layers in float as let the bounds hold on the measured images.

    Raises:
        CheckFailed: they hold only with every layer in float.
        UserError: a bound on top-1, and images without labels.
    """

    def reached(found: Likeness) -> bool:
        enough = min_sqnr_db is None or found.sqnr_db >= min_sqnr_db + _MARGIN_DB
        right = max_drop is None or (found.top1_drop is not None and found.top1_drop <= max_drop)
        return enough and right

    labels = calibration.measured.labels if max_drop is not None else None
    with spooled(calibration.measured) as images:

        def batches() -> Batches:
            return (images[i : i + BATCH] for i in range(0, len(images), BATCH))

        ranking = measure_layers(network, batches, progress)
        kept = keep_until(network, ranking, batches, reached, labels)
    if len(kept.names) == len(network.layers):
        raise CheckFailed(
            f"{source}: the bounds hold only with every layer in float (SQNR "
            f"{kept.steps[-2].sqnr_db:.1f} dB with one in int8); nothing was written, ask for less."
        )
    layers = [layer for layer in network.layers if layer.name not in kept.names]
    return replace(network, layers=layers), Fallback(ranking, kept)
