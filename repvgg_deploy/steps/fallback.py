"""Layers that stay in float, so that a bound on the loss holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.spool import spooled
from ..errors import CheckFailed
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
from .calibration import Calibration
from .quantize_options import QuantizeOptions
from .quantize_proof import Measured


@dataclass(frozen=True)
class Fallback:
    """``ranking`` of all quantized layers, and what was ``kept`` in float of them; ``reached`` is
    what the network came to with them."""

    ranking: list[Sensitivity]
    kept: Kept
    float_type: str
    reached: Measured

    @property
    def cost(self) -> str:
        """What the kept layers are of the work, in words."""
        if self.float_type == "fp16":
            return speed_cost(self.ranking, self.kept.names)
        return f"{float_share(self.ranking, self.kept.names):.1%} of the multiply-adds run in fp32"


def reach_bounds(
    source: Path,
    network: QuantizedNetwork,
    calibration: Calibration,
    options: QuantizeOptions,
    measure: Callable[[QuantizedNetwork], Measured],
    progress: Callable[[str, float], None],
) -> tuple[QuantizedNetwork, Fallback]:
    """The network with as few layers in float as let the bounds hold on the measured images.

    They are looked for in a float32 simulation; ``measure`` says what the real model reaches, and
    where that is less, one more layer is kept.

    Raises:
        CheckFailed: the bounds hold only with every layer in float.
        UserError: a bound on top-1, and images without labels.
    """
    labels = calibration.measured.labels if options.max_drop is not None else None
    with spooled(calibration.measured) as images:
        ranking = measure_layers(network, images.batches, progress)
        at_least = 0
        while True:
            bounds = _Bounds(options, at_least)
            kept = keep_until(network, ranking, images.batches, bounds, labels, progress)
            if not kept.holds or len(kept.names) == len(network.layers):
                raise CheckFailed(
                    f"{source}: the bounds hold only with every layer in float, so nothing was "
                    "written; ask for less."
                )
            layers = [layer for layer in network.layers if layer.name not in kept.names]
            reduced = replace(network, layers=layers)
            measured = measure(reduced)
            if options.hold(measured.quality):
                return reduced, Fallback(ranking, kept, options.float_type, measured)
            at_least = len(kept.names) + 1


class _Bounds:
    """Whether the bounds hold; not before ``at_least`` layers are kept. It is asked once with none
    kept, then after each."""

    def __init__(self, options: QuantizeOptions, at_least: int) -> None:
        self._options, self._missing = options, at_least

    def __call__(self, found: Likeness) -> bool:
        self._missing -= 1
        return self._missing < 0 and self._options.hold(found)
