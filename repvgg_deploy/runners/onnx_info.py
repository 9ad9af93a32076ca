"""What an ONNX model takes and gives, read from its graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto

from ..errors import UserError
from ..reparam.graph.files import read_proto

_PRECISION = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}

#: A dimension beyond this is no image.
LARGEST = 16_384


@dataclass(frozen=True)
class OnnxInfo:
    """``batch`` is None where it is dynamic; height and width are fixed, or 0 for any size.

    ``quantized``: whether it holds Q/DQ nodes.
    """

    path: Path
    input: str
    precision: str
    batch: int | None
    channels: int
    height: int
    width: int
    quantized: bool


def float_types(model: ModelProto) -> list[str]:
    """Of the inputs that are no constants; empty for what is no float type."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return [_PRECISION.get(value.type.tensor_type.elem_type, "") for value in inputs]


def read_onnx_info(path: Path, any_outputs: bool = False, any_size: bool = False) -> OnnxInfo:
    """Read the one image input of a model, and of one output, unless it may have ``any_outputs``.

    ``any_size``: its height and width may be dynamic.

    Raises:
        UserError: no such file, not ONNX, or not one image in, [N, C, H, W].
    """
    graph = read_proto(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    precision = _PRECISION.get(inputs[0].type.tensor_type.elem_type) if inputs else None
    one_each = len(inputs) == 1 and (any_outputs or len(graph.output) == 1)
    least = (0, 1, *[0 if any_size else 1] * 2)
    sized = len(shape) == 4 and all(
        low <= side <= LARGEST for low, side in zip(least, shape, strict=True)
    )
    if not one_each or precision is None or not sized:
        raise UserError(
            f"{path}: its inputs are {[v.name for v in inputs]} with the shape {shape}, its "
            f"outputs {[v.name for v in graph.output]}; this step takes models with one float "
            "image input [batch, C, H, W], C, H and W fixed, and one output."
        )
    quantized = any(node.op_type == "DequantizeLinear" for node in graph.node)
    batch, channels, height, width = shape
    return OnnxInfo(
        path, inputs[0].name, precision, batch or None, channels, height, width, quantized
    )
