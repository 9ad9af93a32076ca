"""Activation-aware channel equalization: every channel gets the range that it needs.

A tensor has one scale, so a channel that is a thousand times quieter than the loudest is rounded
away. Where channels can be scaled freely (scaling.py), the scale of each can be chosen. The choice
starts from the measured range of each channel, so it undoes whatever scaling training left: two
networks that differ by such a scaling alone become the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper

from .histograms import ChannelHistograms
from .layers import Layer, weighted_layers
from .ranges import LEVELS, mean_squared_errors, mse_thresholds
from .scaling import Array, Scalable, find_scalable, rescale

#: Input scale of an equalized tensor: a power of two, which fp16 and bf16 hold exactly.
STEP = 2.0**-4
#: Candidates, as parts of a threshold. Above 1: room for images that are not among those seen.
HEADROOM = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0)
#: How far factors follow the activations (1) or the weights that read them (0); SmoothQuant's
#: migration strength (Xiao et al., ICML 2023, equation 4).
DIRECTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: A channel that hardly ever fires gets this part of the range that its weights could give it.
_LEAST = 0.02

#: Histograms of one tensor, on two halves of the images.
Halves = tuple[ChannelHistograms, ChannelHistograms]


@dataclass(frozen=True)
class TensorRange:
    """How a tensor is quantized. ``scale`` is its input scale.

    ``headroom`` is the part of the measured threshold that was best on images it was not measured
    on; ``direction`` as in DIRECTIONS and ``spread``, largest over smallest channel threshold
    before, for an equalized tensor; None for others.
    """

    scale: float
    headroom: float
    direction: float | None = None
    spread: float | None = None


def whole_range(halves: Halves) -> TensorRange:
    """The range of a tensor whose channels stay as they are."""
    first, second = (half.total().as_row() for half in halves)
    thresholds = mse_thresholds(first), mse_thresholds(second)
    headroom = _headroom((first, second), thresholds, np.ones(1))
    threshold = headroom * float(np.maximum(*thresholds)[0])
    return TensorRange(threshold / LEVELS if threshold > 0 else STEP, headroom)


def equalize(
    model: ModelProto, layers: Sequence[Layer], histograms: Mapping[str, Halves]
) -> tuple[ModelProto, dict[str, TensorRange]]:
    """A copy of a prepared model with its channels equalized, and the range of each tensor.

    ``histograms`` has every tensor that ``layers`` read, of the model as it is.
    """
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kernels = {
        layer.name: _kernel(weights[layer.weight], layer) for layer in weighted_layers(model)
    }
    quantized = {layer.name for layer in layers}
    read = list(dict.fromkeys(layer.input for layer in layers))
    home = {name: found for found in find_scalable(model) for name in found.tensors}
    ranges = {name: whole_range(histograms[name]) for name in read if name not in home}
    thresholds = {
        name: np.full(len(histograms[name][0].peaks), found.scale * LEVELS)
        for name, found in ranges.items()
    }
    chosen: dict[str, tuple[Scalable, Array]] = {}
    for name in read:
        if name in ranges:
            continue
        found = home[name]
        producer = found.producer
        if producer.name in chosen:  # another tensor of the same channels, such as a pooled one
            factors = chosen[producer.name][1]
            limits = [mse_thresholds(half) for half in histograms[name]]
            ranges[name] = TensorRange(float((factors * np.max(limits, 0)).max()) / LEVELS, 1.0)
            continue
        kernel = kernels[producer.name]
        incoming = thresholds.get(producer.input, np.ones(kernel.shape[1] * producer.groups))
        readers = [(layer, kernels[layer.name]) for layer in found.readers]
        choice = _Choice(
            histograms[name],
            _reach(kernel, producer, incoming),
            [(layer, kernel) for layer, kernel in readers if layer.name in quantized],
        )
        factors, ranges[name] = choice.best()
        thresholds[name] = choice.thresholds
        chosen[producer.name] = found, factors
    scalables, factors_of = zip(*chosen.values(), strict=True) if chosen else ((), ())
    return rescale(model, list(scalables), list(factors_of)), ranges


def _kernel(values: np.ndarray, layer: Layer) -> Array:
    """[out, in/groups, taps] in float64."""
    wide = (values.T if layer.transposed else values).astype(np.float64)
    return wide.reshape(*wide.shape[:2], -1)


def _grouped(kernel: Array, layer: Layer) -> Array:
    """[groups, out/groups, in/groups, taps]."""
    return kernel.reshape(layer.groups, -1, *kernel.shape[1:])


def _reach(kernel: Array, layer: Layer, incoming: Array) -> Array:
    """What each output channel [out] comes to where inputs are at their thresholds, at random."""
    squares = (_grouped(kernel, layer) ** 2).sum(3)
    limits = incoming.reshape(layer.groups, 1, -1) ** 2
    reach: Array = np.sqrt((squares * limits).sum(2)).reshape(-1)
    return reach


def _headroom(halves: Halves, thresholds: tuple[Array, Array], importance: Array) -> float:
    """The part of thresholds that is best on the half that they were not taken from."""

    def error(part: float) -> float:
        crossed = zip(halves, reversed(thresholds), strict=True)
        errors = [mean_squared_errors(half, part * other) for half, other in crossed]
        return float(((errors[0] + errors[1]) * importance).sum())

    return min(HEADROOM, key=error)


class _Choice:
    """The factors of one tensor's channels, chosen by the error that its readers would see.

    Rows of the readers count in units of what they come to, so no scaling of the channels behind
    sways the choice.
    """

    def __init__(
        self, halves: Halves, reach: Array, readers: Sequence[tuple[Layer, Array]]
    ) -> None:
        self._halves = halves
        found = mse_thresholds(halves[0]), mse_thresholds(halves[1])
        measured = np.maximum(*found)
        floor = np.maximum(_LEAST * reach, np.finfo(np.float32).tiny)
        least = np.maximum(measured, floor)
        self._rows = [_in_units(layer, kernel, least) for layer, kernel in readers]
        importance = sum(
            (rows**2).sum((1, 3)).reshape(-1) for rows in self._rows
        )
        assert isinstance(importance, np.ndarray)
        self._importance: Array = importance
        self._headroom = _headroom(halves, found, self._importance)
        self.thresholds: Array = np.maximum(self._headroom * measured, floor)

    def best(self) -> tuple[Array, TensorRange]:
        """Factors [C], and the range that the tensor has with them."""
        candidates = []
        for direction in DIRECTIONS:
            factors = self._factors(direction)
            largest = (factors * self.thresholds).max()
            for part in (0.5, 0.7, 0.85, 1.0) if direction < 1 else (1.0,):
                scaled = factors * (STEP * LEVELS / (part * largest))
                candidates.append((self._error(scaled), -direction, scaled))
        _, direction, factors = min(candidates, key=lambda candidate: candidate[:2])
        spread = float(self.thresholds.max() / self.thresholds.min())
        return factors, TensorRange(STEP, self._headroom, -direction, spread)

    def _factors(self, direction: float) -> Array:
        largest = np.max([np.abs(rows).max((1, 3)).reshape(-1) for rows in self._rows], axis=0)
        largest = np.maximum(largest, 1e-6 * largest.max() + np.finfo(float).tiny)
        factors: Array = largest ** (1 - direction) / self.thresholds**direction
        return factors

    def _error(self, factors: Array) -> float:
        """Of activations and of weights, both rounded to the nearest, in the readers' outputs."""
        limits = STEP * LEVELS / factors
        both = [mean_squared_errors(half, limits) for half in self._halves]
        total = float((0.5 * (both[0] + both[1]) * self._importance).sum())
        power = 0.5 * (_power(self._halves[0]) + _power(self._halves[1])) * factors**2
        for rows in self._rows:
            groups, _, per_group, taps = rows.shape
            scaled = np.abs(rows) / factors.reshape(groups, 1, per_group, 1)
            steps = scaled.max((2, 3)) / LEVELS
            gathered = power.reshape(groups, per_group).sum(1) * taps
            total += float((steps**2 / 12 * gathered[:, None]).sum())
        return total


def _in_units(layer: Layer, kernel: Array, thresholds: Array) -> Array:
    """A reader's kernel with every row in units of its reach."""
    reach = np.maximum(_reach(kernel, layer, thresholds), np.finfo(float).tiny)
    return _grouped(kernel / reach[:, None, None], layer)


def _power(histograms: ChannelHistograms) -> Array:
    """The mean of x^2 of each channel."""
    counts = histograms.counts.astype(np.float64)
    middles = (np.arange(counts.shape[1]) + 0.5) ** 2
    middles[0] = 0
    widths = histograms.limits / counts.shape[1]
    power: Array = (counts @ middles) * widths**2 / np.maximum(counts.sum(1), 1)
    return power
