"""Our rows: each adds a technique to the one before it."""

from __future__ import annotations

import onnx

from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.quantizer import RECIPES, quantize

from .method import Images, Method

_AT_ONCE = 64


def quantize_ours(
    fp32_model: onnx.ModelProto, images: Images, method: str, linear: bool
) -> onnx.ModelProto:
    """The int8 model by one of ``repvgg_deploy.quantize``'s recipes."""

    def batches() -> list[Images]:
        return [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]

    found = quantize(fp32_model, batches, RECIPES[method], linear=linear)
    return insert_qdq(found.model, found.layers, "fp32")


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

    return [row(name, linear) for name, linear in ROWS]
