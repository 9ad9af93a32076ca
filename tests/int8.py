"""Quantized layers with made-up activation scales, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, numpy_helper

from repvgg_deploy.quantize.layers import Layer, QuantizedLayer
from repvgg_deploy.quantize.qdq import representable


def quantized_layers(
    model: ModelProto, layers: Sequence[Layer], float_type: str = "fp32", input_scale: float = 0.05
) -> list[QuantizedLayer]:
    """Weights by the largest of each output channel, activations by ``input_scale``."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (scale,) = representable(np.array([input_scale]), float_type)
    quantized = []
    for layer in layers:
        weight = arrays[layer.weight]
        weight = weight.T if layer.transposed else weight
        scales = representable(np.abs(weight).reshape(len(weight), -1).max(1) / 127, float_type)
        steps = weight / scales.reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.clip(np.rint(steps), -128, 127).astype(np.int8)
        bias = arrays[layer.bias].reshape(-1) if layer.bias else None
        quantized.append(QuantizedLayer(layer.name, float(scale), integers, scales, bias))
    return quantized
