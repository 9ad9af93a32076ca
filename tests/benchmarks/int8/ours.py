"""Our rows: each adds a technique to the one before it."""

from __future__ import annotations

import onnx

from .method import Images, Method


def quantize_ours(fp32_model: onnx.ModelProto, images: Images, method: str) -> onnx.ModelProto:
    """The int8 model by one of ``repvgg_deploy.quantize``'s methods."""
    raise NotImplementedError(method)


#: Names of the methods, cheapest first.
METHODS: tuple[str, ...] = ()


def our_methods() -> list[Method]:
    """The ablation."""

    def row(name: str) -> Method:
        def quantize(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
            return quantize_ours(model, images, name)

        return Method(f"ours, {name}", {"method": name}, quantize)

    return [row(name) for name in METHODS]
