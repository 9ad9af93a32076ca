"""Activation-aware channel equalization: every channel gets the range that it needs.

A tensor has one scale, so a channel that is a thousand times quieter than the loudest is rounded
away. Where channels can be scaled freely (scaling.py), the scale of each can be chosen. The choice
starts from the measured range of each channel, so it undoes whatever scaling training left: two
networks that differ by such a scaling alone become the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, numpy_helper

from .factors import LEFT_BY_LEARNING, STEP, Choice, TensorRange, headroom_of, kernel_of, reach_of
from .histograms import ChannelHistograms
from .layers import Layer, weighted_layers
from .ranges import LEVELS, mse_thresholds
from .scaling import Array, Scalable, find_scalable, rescale


def whole_range(histograms: ChannelHistograms) -> TensorRange:
    """The range of a tensor whose channels stay as they are."""
    row = histograms.total().as_row()
    headroom = headroom_of(row, np.ones(1))
    threshold = headroom * float(mse_thresholds(row)[0])
    return TensorRange(threshold / LEVELS if threshold > 0 else STEP, headroom)


def equalize(
    model: ModelProto,
    layers: Sequence[Layer],
    histograms: Mapping[str, ChannelHistograms],
    *,
    learned: bool,
) -> tuple[ModelProto, dict[str, TensorRange]]:
    """A copy of a prepared model with its channels equalized, and the range of each tensor.

    ``histograms`` has every tensor that ``layers`` read, of the model as it is; ``learned`` says
    that its weights will be rounded so.
    """
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kernels = {
        layer.name: kernel_of(weights[layer.weight], layer) for layer in weighted_layers(model)
    }
    quantized = {layer.name for layer in layers}
    read = list(dict.fromkeys(layer.input for layer in layers))
    home = {name: found for found in find_scalable(model) for name in found.tensors}
    ranges = {name: whole_range(histograms[name]) for name in read if name not in home}
    thresholds = {
        name: np.full(len(histograms[name].peaks), found.scale * LEVELS)
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
            thresholds[name] = mse_thresholds(histograms[name])
            largest = float((factors * thresholds[name]).max())
            ranges[name] = TensorRange(largest / LEVELS if largest > 0 else STEP, 1.0)
            continue
        kernel = kernels[producer.name]
        incoming = thresholds.get(producer.input, np.ones(kernel.shape[1] * producer.groups))
        reach = reach_of(kernel, producer, incoming)
        if producer.bias is not None:  # a dead channel's bias must not be blown up beyond fp16
            reach = np.hypot(reach, weights[producer.bias])
        readers = [(layer, kernels[layer.name]) for layer in found.readers]
        choice = Choice(
            histograms[name],
            reach,
            [(layer, kernel) for layer, kernel in readers if layer.name in quantized],
            LEFT_BY_LEARNING if learned else 1.0,
        )
        factors, ranges[name] = choice.best()
        thresholds[name] = choice.thresholds
        chosen[producer.name] = found, factors
    scalables, factors_of = zip(*chosen.values(), strict=True) if chosen else ((), ())
    return rescale(model, list(scalables), list(factors_of)), ranges
