"""Integers, scales and biases read back out of a Q/DQ model, ours or another tool's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ..errors import UserError
from ..reparam.graph.index import describe
from ..reparam.graph.model import is_standard
from .layers import WEIGHTED, QuantizedLayer


@dataclass(frozen=True)
class QdqModel:
    """``layers`` in the order of the graph; ``inputs`` is for each the tensor of its integers.

    ``kept`` are the weighted nodes in float.
    """

    layers: list[QuantizedLayer]
    inputs: dict[str, str]
    kept: list[str]


def read_qdq(model: ModelProto) -> QdqModel:
    """The quantized layers of a model, whose weights are in the message.

    Raises:
        UserError: a layer that TensorRT does not take: quantized on one side alone, a zero point
            other than 0, uint8, an activation with a scale a channel, a bias in integers.
    """
    reader = _Reader(model)
    layers, inputs, kept = [], {}, []
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or not is_standard(node.domain):
            continue
        if not any(map(reader.dequantizer, node.input)):
            kept.append(_name(node))
            continue
        layers.append(reader.layer(node))
        inputs[_name(node)] = reader.linear(node.input[0], describe(node)).input[0]
    return QdqModel(layers, inputs, kept)


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._tensors[node.output[0]] = node.attribute[0].t

    def dequantizer(self, name: str) -> NodeProto | None:
        node = self._makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def linear(self, name: str, where: str) -> NodeProto:
        """The DequantizeLinear that makes ``name``, its zero point 0."""
        node = self.dequantizer(name)
        if node is None:
            raise UserError(f"{where} is quantized on one side alone; quantize input and weight.")
        zero = self._array(node.input[2], where) if len(node.input) > 2 else np.zeros((), np.uint8)
        if zero.dtype != np.int8:
            raise UserError(f"{where} is quantized to {zero.dtype}; TensorRT takes int8 alone.")
        if zero.any():
            raise UserError(f"{where} has a zero point other than 0; quantize it symmetrically.")
        return node

    def layer(self, node: NodeProto) -> QuantizedLayer:
        where = describe(node)
        if node.op_type not in ("Conv", "Gemm"):
            raise UserError(f"{where} is quantized; only Conv and Gemm can be checked.")
        scale = self._input_scale(node, where)
        transposed = node.op_type == "Gemm" and not _attribute(node, "transB", 0)
        weight, scales = self._weight(node, where, 1 if transposed else 0)
        bias = None
        if len(node.input) > 2 and node.input[2]:
            if self.dequantizer(node.input[2]):
                raise UserError(f"{where} has its bias in integers; TensorRT takes it in float.")
            bias = self._array(node.input[2], where).astype(np.float32).reshape(-1)
        return QuantizedLayer(_name(node), scale, weight.T if transposed else weight, scales, bias)

    def _input_scale(self, node: NodeProto, where: str) -> float:
        dequantizer = self.linear(node.input[0], where)
        scale = self._array(dequantizer.input[1], where)
        if scale.size != 1:
            raise UserError(f"{where} reads an activation with a scale a channel; give it one.")
        quantizer = self._makers.get(dequantizer.input[0])
        if quantizer is None or quantizer.op_type != "QuantizeLinear":
            raise UserError(
                f"{where} reads integers that no QuantizeLinear makes; TensorRT cannot."
            )
        if not np.array_equal(self._array(quantizer.input[1], where), scale):
            raise UserError(f"{where} reads what was quantized with another scale; make them one.")
        return float(scale.reshape(()))

    def _weight(
        self, node: NodeProto, where: str, axis: int
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Integers as they lie, and a scale for each of the outputs, which are along ``axis``."""
        dequantizer = self.linear(node.input[1], where)
        stored = dequantizer.input[0]
        scales = self._array(dequantizer.input[1], where).astype(np.float32)
        quantizer = self._makers.get(stored)
        from_float = quantizer is not None and quantizer.op_type == "QuantizeLinear"
        values = self._array(quantizer.input[0] if quantizer and from_float else stored, where)
        if not from_float and values.dtype != np.int8:
            raise UserError(f"{where} has its weight as {values.dtype}; TensorRT takes int8 alone.")
        along = _attribute(dequantizer, "axis", 1)
        if scales.size != 1 and along % values.ndim != axis:
            raise UserError(f"{where} has weight scales along axis {along}; give it {axis}.")
        if scales.size not in (1, values.shape[axis]):
            raise UserError(f"{where} has {scales.size} weight scales; give one an output channel.")
        if scales.size == 1:
            scales = np.full(values.shape[axis], scales.reshape(()))
        if from_float:  # the builder quantizes it so
            shape = [-1 if i == axis else 1 for i in range(values.ndim)]
            values = np.clip(np.rint(values / scales.reshape(shape)), -128, 127)
        return values.astype(np.int8), scales

    def _array(self, name: str, where: str) -> NDArray[Any]:
        if name not in self._tensors:
            raise UserError(f"{where} is quantized with {name!r}, which is not constant.")
        return numpy_helper.to_array(self._tensors[name])


def _name(node: NodeProto) -> str:
    return node.name or str(node.output[0])


def _attribute(node: NodeProto, name: str, default: int) -> int:
    found = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return int(found[0]) if found else default
