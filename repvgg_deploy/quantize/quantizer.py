"""The whole of post-training quantization, for any fp32 ONNX model of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from ..sqnr import decibel
from .collect import Batches, activations, collect, collect_channels
from .equalize import equalize
from .factors import STEP, TensorRange
from .layers import Layer, QuantizedLayer, find_layers
from .patches import PatchStatistics, measure
from .prefix import fake_quantized_prefix, prefix
from .prepare import prepare
from .qdq import representable
from .ranges import LEVELS, METHODS
from .rounding import round_layer
from .threads import one_thread

#: Gives the calibration images from the start, [n, C, H, W] each.
Images = Callable[[], Batches]


@dataclass(frozen=True)
class Recipe:
    """Which parts are used. ``ranges`` names a method of ranges.py; with ``equalize`` it is mse,
    for each channel. ``learned`` and ``correct_bias`` are round_layer's."""

    ranges: str = "mse"
    equalize: bool = False
    correct_bias: bool = False
    learned: bool = False


RECIPES: dict[str, Recipe] = {
    "minmax": Recipe("minmax"),
    "percentile": Recipe("percentile"),
    "kl": Recipe("kl"),
    "mse": Recipe("mse"),
    "equalize": Recipe(equalize=True),
    "quick": Recipe(equalize=True, correct_bias=True),
    "thorough": Recipe(equalize=True, correct_bias=True, learned=True),
}


@dataclass(frozen=True)
class QuantizedNetwork:
    """``model`` is the fp32 network that ``layers`` take the place of parts of: prepared, and
    conditioned where the recipe says so.

    ``ranges`` is of each tensor that a layer reads; ``input_sqnr_db`` of each layer, by name, how
    far the quantized network has come from the float one where the layer reads it (empty: not
    measured).
    """

    model: ModelProto
    layers: list[QuantizedLayer]
    ranges: dict[str, TensorRange]
    input_sqnr_db: dict[str, float]


@one_thread()
def quantize(
    model: ModelProto,
    images: Images,
    recipe: Recipe,
    *,
    float_type: str = "fp32",
    stem: bool = True,
    linear: bool = False,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> QuantizedNetwork:
    """Quantize the convolutions of ``model`` on calibration images, without labels.

    ``stem`` and ``linear`` as find_layers has them. The same arguments give the same integers
    on any number of threads of one machine; other processors may round sums otherwise.
    ``progress`` hears what is done and the share of it that is.

    Raises:
        UserError: a model that cannot be prepared or run, or images that do not fit it.
    """
    ready = prepare(model)
    layers = find_layers(ready, stem=stem, linear=linear)
    progress("measuring ranges", 0.0)
    ready, ranges = _find_ranges(ready, layers, images, recipe)
    done: list[QuantizedLayer] = []
    reached: dict[str, float] = {}
    nodes = {node.name: node for node in ready.graph.node}
    weights = {t.name: t for t in ready.graph.initializer}
    for number, layer in enumerate(layers):
        progress("rounding", number / len(layers))
        (scale,) = representable(np.array([ranges[layer.input].scale]), float_type)
        values = numpy_helper.to_array(weights[layer.weight])
        weight = np.ascontiguousarray(values.T if layer.transposed else values)
        bias = numpy_helper.to_array(weights[layer.bias]).reshape(-1) if layer.bias else None
        statistics: PatchStatistics | None = None
        if recipe.learned or recipe.correct_bias:
            pairs = _inputs(ready, layer, done, float(scale), images)
            statistics = measure(pairs, nodes[layer.name], weight, seed + number)
            reached[layer.name] = decibel(statistics.signal, statistics.noise)
        rounded = round_layer(
            weight,
            bias,
            statistics,
            learned=recipe.learned,
            correct_bias=recipe.correct_bias,
            float_type=float_type,
        )
        done.append(
            QuantizedLayer(layer.name, float(scale), rounded.integers, rounded.scales, rounded.bias)
        )
    progress("rounding", 1.0)
    return QuantizedNetwork(ready, done, ranges, reached)


def _find_ranges(
    model: ModelProto, layers: Sequence[Layer], images: Images, recipe: Recipe
) -> tuple[ModelProto, dict[str, TensorRange]]:
    tensors = list(dict.fromkeys(layer.input for layer in layers))
    if recipe.equalize:
        histograms = collect_channels(model, tensors, images())
        return equalize(model, layers, histograms, learned=recipe.learned)
    found = collect(model, tensors, images())
    thresholds = {name: METHODS[recipe.ranges](found[name]) for name in tensors}
    return model, {
        name: TensorRange(threshold / LEVELS if threshold > 0 else STEP, 1.0)
        for name, threshold in thresholds.items()
    }


def _inputs(
    model: ModelProto, layer: Layer, done: Sequence[QuantizedLayer], scale: float, images: Images
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What a layer reads in the float network and in the quantized one, its own rounding too."""
    float_values = activations(prefix(model, layer.input), [layer.input], images())
    quantized = activations(
        fake_quantized_prefix(model, layer.input, done), [layer.input], images()
    )
    for one, other in zip(float_values, quantized, strict=True):
        steps = np.clip(np.rint(other[layer.input] / np.float32(scale)), -128, 127)
        yield one[layer.input], (steps * np.float32(scale)).astype(np.float32)
