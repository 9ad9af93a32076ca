"""Our rows: each adds a technique to the one before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from repvgg_deploy.quantize.layers import find_layers
from repvgg_deploy.quantize.prefix import fake_quantized_model
from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.quantizer import RECIPES, quantize

from .method import Images, Method

_AT_ONCE = 64


def quantize_ours(
    fp32_model: onnx.ModelProto, images: Images, method: str, linear: bool
) -> onnx.ModelProto:
    """The int8 model by one of ``repvgg_deploy.quantize``'s recipes."""

    found = quantize(fp32_model, lambda: _batches(images), RECIPES[method], linear=linear)
    return insert_qdq(found.model, found.layers, "fp32")


def _batches(images: Images) -> list[Images]:
    return [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]


#: Each adds a part to the one before, and the last the classifier; the other recipes are as ONNX
#: Runtime has them.
ROWS = (
    ("mse", False),
    ("equalize", False),
    ("quick", False),
    ("thorough", False),
    ("thorough", True),
)


def our_methods() -> list[Method]:
    """The ablation."""

    def row(name: str, linear: bool) -> Method:
        def quantize_by(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
            return quantize_ours(model, images, name, linear)

        title = f"ours, {name}, linear layer too" if linear else f"ours, {name}"
        return Method(title, {"method": name, "linear": linear}, quantize_by)

    floor = Method(
        "activations alone", {"method": "equalize", "weights": "float"}, activations_only
    )
    return [*[row(name, linear) for name, linear in ROWS], floor]


def activations_only(fp32_model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
    """No int8 model, but what one cannot be much better than: every convolution sees its input in
    the 8 bits that ``equalize`` gives it, and computes with its float weights."""
    found = quantize(fp32_model, lambda: _batches(images), RECIPES["equalize"])
    weights = {t.name: numpy_helper.to_array(t) for t in found.model.graph.initializer}
    layers = {layer.name: layer for layer in find_layers(found.model)}
    kept = []
    for layer in found.layers:
        place = layers[layer.name]
        bias = None if place.bias is None else weights[place.bias]
        ones = np.ones_like(layer.weight_scales)
        kept.append(replace(layer, weight=weights[place.weight], weight_scales=ones, bias=bias))
    return fake_quantized_model(found.model, kept)
