"""Our rows: each adds a technique to the one before it."""

from __future__ import annotations

import onnx

from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.quantizer import RECIPES, quantize

from .method import Images, Method

_AT_ONCE = 64


def quantize_ours(fp32_model: onnx.ModelProto, images: Images, method: str) -> onnx.ModelProto:
    """The int8 model by one of ``repvgg_deploy.quantize``'s recipes."""

    def batches() -> list[Images]:
        return [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]

    found = quantize(fp32_model, batches, RECIPES[method])
    return insert_qdq(found.model, found.layers, "fp32")


#: Each adds a part to the one before; the other recipes are as ONNX Runtime has them.
METHODS = ("mse", "equalize", "quick", "thorough")


def our_methods() -> list[Method]:
    """The ablation."""

    def row(name: str) -> Method:
        def quantize_by(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
            return quantize_ours(model, images, name)

        return Method(f"ours, {name}", {"method": name}, quantize_by)

    return [row(name) for name in METHODS]
