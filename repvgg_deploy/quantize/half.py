"""The float part of a Q/DQ model in half precision, where that is sure to be right."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ..errors import UserError
from ..reparam.graph.index import describe
from ..reparam.graph.model import is_standard

FP16_MAX = float(np.finfo(np.float16).max)
#: Operators that take and give fp16 wherever they do fp32, without a type among their attributes.
_SAFE = {
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv",
    "ConvTranspose", "DepthToSpace", "DequantizeLinear", "Div", "Elu", "Erf", "Exp", "Expand",
    "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
    "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul",
    "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape",
    "Sigmoid", "Slice", "Softmax", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub",
    "Sum", "Tanh", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip


def to_half(model: ModelProto) -> ModelProto:
    """``model`` in place, every fp32 input, output, initializer and Constant in fp16.

    The scales of a Resize stay fp32: ONNX has them so.

    Raises:
        UserError: an operator that may compute something else in fp16, or a number beyond it.
    """
    graph = model.graph
    for node in graph.node:
        if node.op_type not in _SAFE or not is_standard(node.domain):
            raise UserError(
                f"{describe(node)} is not one that is known to be the same in fp16; use fp32 for "
                "what is not quantized."
            )
    fp32_only = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.name not in fp32_only:
            _halve(tensor, tensor.name)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in fp32_only:
            _halve_constant(node)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def _halve(tensor: TensorProto, name: str) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    peak = float(np.abs(values).max(initial=0))
    if peak > FP16_MAX and np.isfinite(peak):  # an infinite bound of a Clip or Pad stays one
        raise UserError(
            f"{name} reaches {peak:.3g}, beyond float16's largest number {FP16_MAX:g}; use fp32 "
            "for what is not quantized (--float fp32)."
        )
    with np.errstate(over="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def _halve_constant(node: NodeProto) -> None:
    (attribute,) = node.attribute
    if attribute.name == "value":
        _halve(attribute.t, node.output[0])
    elif attribute.name in ("value_float", "value_floats"):
        raise UserError(
            f"{describe(node)} holds its floats as an attribute, which has no fp16; use fp32 for "
            "what is not quantized."
        )
