"""Which layers cost a quantized network most, and the fewest that have to stay in float.

The networks compared are float32 with plain arithmetic that rounds (prefix.py), so that ONNX
Runtime optimises them without moving the rounding: 22 layers on some hundred images take seconds.
Kept layers are evaluated in fp32; what fp16 itself costs is not in these figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from ..errors import UserError
from ..runners.onnx_session import Arrays
from .collect import activations
from .prefix import fake_quantized_model
from .quality import Likeness, LikenessTally
from .quantizer import Images, QuantizedNetwork

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Sensitivity:
    """``sqnr_db_without`` is the SQNR of the outputs with this layer alone in float, ``gained_db``
    how much more that is than with every layer quantized; ``macs`` its multiply-adds an image."""

    name: str
    sqnr_db_without: float
    gained_db: float
    macs: int


@dataclass(frozen=True)
class Kept:
    """``names`` are the layers that stay in float, and ``holds`` whether that is enough.

    ``steps`` is what the network reached with none of them in float, the first, the first two, ...
    """

    names: list[str]
    steps: list[Likeness]
    holds: bool


def measure_layers(
    network: QuantizedNetwork,
    images: Images,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> list[Sensitivity]:
    """Every quantized layer, the most harmful first: the one that helps most when it alone stays in
    float. Layers that harm alike stand in the order of the graph.

    The SQNR is over all float outputs of the network, each counting alike. The float network's
    outputs on all of ``images`` are held in memory.

    Raises:
        UserError: no images, or images that the network does not take.
    """
    meter = _Meter(network, images, None)
    macs = _multiply_adds(network, images)
    everything = meter.measure(frozenset()).sqnr_db
    found = []
    for number, layer in enumerate(network.layers):
        progress("measuring sensitivity", number / len(network.layers))
        without = meter.measure(frozenset([layer.name])).sqnr_db
        gained = without - everything if without != everything else 0.0  # both may be EXACT
        found.append(Sensitivity(layer.name, without, gained, macs[layer.name]))
    progress("measuring sensitivity", 1.0)
    return sorted(found, key=lambda layer: -layer.sqnr_db_without)


def keep_until(
    network: QuantizedNetwork,
    ranking: Sequence[Sensitivity],
    images: Images,
    reached: Callable[[Likeness], bool],
    labels: Labels | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Kept:
    """Keep as few layers in float as let ``reached`` hold, one after the other.

    The first is that of ``ranking``; with each kept, all that are left are measured anew, and the
    one that helps most is next: the layers behind were rounded for quantized inputs, so errors make
    up for one another, and what a layer costs alone says little of what it costs among others.
    ``labels`` are of ``images`` in their order, [N]; without them there is no ``top1_drop``.

    Raises:
        UserError: as :func:`measure_layers`; or labels whose number is not that of the images, or
            of a network that does not classify.
    """
    meter = _Meter(network, images, labels)
    names: list[str] = []
    steps = [meter.measure(frozenset())]
    left = [layer.name for layer in ranking]
    while left and not reached(steps[-1]):
        progress("looking for layers to keep in float", len(names) / len(ranking))
        best = left[0]
        if names:
            best = max(left, key=lambda name: meter.measure(frozenset([*names, name])).sqnr_db)
        left.remove(best)
        names.append(best)
        steps.append(meter.measure(frozenset(names)))
    return Kept(names, steps, reached(steps[-1]))


def float_share(ranking: Sequence[Sensitivity], kept: Sequence[str]) -> float:
    """The share of the multiply-adds of all quantized layers that ``kept`` do."""
    total = sum(layer.macs for layer in ranking)
    return sum(layer.macs for layer in ranking if layer.name in kept) / total if total else 0.0


def speed_cost(ranking: Sequence[Sensitivity], kept: Sequence[str]) -> str:
    """What keeping these layers in fp16 costs by arithmetic.

    int8 runs at twice the rate of fp16 (dense ceilings in NVIDIA's data sheets, A100 to H200, L4
    and T4), so that a share s in fp16 takes 2 s in place of s. "Up to": layers that wait for memory
    lose less.
    """
    share = f"{float_share(ranking, kept):.1%}".replace("%", " %")
    return (
        f"{share} of the multiply-adds run in fp16; at half the rate of int8 the convolutions "
        f"take up to {share} longer (arithmetic, not measured)"
    )


class _Meter:
    """Outputs of the network with some layers in float, beside those of the float network."""

    def __init__(self, network: QuantizedNetwork, images: Images, labels: Labels | None) -> None:
        self._network, self._images, self._labels = network, images, labels
        self._outputs = [
            value.name
            for value in network.model.graph.output
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        ]
        if not self._outputs:
            raise UserError("the model has no float32 output to measure the error of.")
        self._truth = list(self._run(frozenset(layer.name for layer in network.layers)))
        if labels is None:
            return
        count = sum(len(chunk[self._outputs[0]]) for chunk in self._truth)
        if [values.ndim for values in self._truth[0].values()] != [2]:
            raise UserError("the model gives no class scores [images, classes]; labels need them.")
        if len(labels) != count:
            raise UserError(f"there are {len(labels)} labels for {count} images; give one each.")

    def measure(self, kept: frozenset[str]) -> Likeness:
        """With these layers in float."""
        tally = LikenessTally(self._labels)
        for found, truth in zip(self._run(kept), self._truth, strict=True):
            tally.add(found, truth)
        return tally.likeness()

    def _run(self, kept: frozenset[str]) -> Iterator[Arrays]:
        quantized = [layer for layer in self._network.layers if layer.name not in kept]
        model = fake_quantized_model(self._network.model, quantized)
        return activations(model, self._outputs, self._images())


def _multiply_adds(network: QuantizedNetwork, images: Images) -> dict[str, int]:
    """Of each layer, by name, for one image; from the size of its output as it is computed, as a
    model may leave its sizes open."""
    outputs = {node.name: node.output[0] for node in network.model.graph.node}
    one = (batch[:1] for batch in islice(images(), 1))
    names = [outputs[layer.name] for layer in network.layers]
    (values,) = activations(network.model, names, one)
    return {
        layer.name: layer.weight.size * int(np.prod(values[name].shape[2:]))
        for layer, name in zip(network.layers, names, strict=True)
    }
