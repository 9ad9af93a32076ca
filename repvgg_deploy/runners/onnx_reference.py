"""An ONNX model in float64, by the ONNX project's own reference evaluator: slow and exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional as F

from ..errors import UserError
from ..reparam.graph.model import sort_nodes

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class OnnxFloat64:
    """Every float constant and cast of the model in float64, so that rounding plays no part.

    ``model`` is changed. ``name`` stands in the sentences of errors.

    Raises:
        UserError: a model that the reference evaluator cannot load, or (``run``) cannot run.
    """

    def __init__(self, model: ModelProto, name: str = "the model") -> None:
        self._name = name
        try:
            _raise_precision(model)
            sort_nodes(model.graph)
            self._evaluator = ReferenceEvaluator(model, new_ops=[Conv])
        except Exception as error:  # the evaluator raises whatever a bad model makes it stumble on
            raise UserError(f"{self._name}: cannot be evaluated in float64: {error}") from error

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; float inputs are raised to float64."""
        feed = {name: _double(values) for name, values in inputs.items()}
        try:
            with np.errstate(all="ignore"):  # what is not finite is told from the outputs
                outputs = self._evaluator.run(None, feed)
        except Exception as error:
            raise UserError(f"{self._name}: cannot be run in float64: {error}") from error
        assert isinstance(outputs, list)
        return dict(zip(self._evaluator.output_names, map(np.asarray, outputs), strict=True))


class Conv(OpRun):
    """Convolution by torch: the evaluator's own walks the pixels in Python."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        auto_pad: str | None = None,
        dilations: list[int] | None = None,
        group: int | None = None,
        kernel_shape: list[int] | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[NDArray[Any]]:
        axes = weight.ndim - 2
        stride, dilation = strides or [1] * axes, dilations or [1] * axes
        first, last = find_padding(auto_pad or "NOTSET", x, weight, stride, dilation, pads)
        sides = [side for axis in reversed(range(axes)) for side in (first[axis], last[axis])]
        padded = F.pad(torch.tensor(x), sides)
        kernel = torch.tensor(weight).to(padded.dtype)
        offset = None if bias is None else torch.tensor(bias).to(padded.dtype)
        convolve = _CONVOLUTIONS[axes]
        return (convolve(padded, kernel, offset, stride, 0, dilation, group or 1).numpy(),)


def find_padding(
    auto_pad: str,
    x: NDArray[Any],
    weight: NDArray[Any],
    stride: list[int],
    dilation: list[int],
    pads: list[int] | None,
) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial axis of a Conv with these attributes."""
    axes = weight.ndim - 2
    if auto_pad in ("NOTSET", "VALID"):
        given = pads if pads and auto_pad == "NOTSET" else [0] * 2 * axes
        return list(given[:axes]), list(given[axes:])
    first, last = [], []
    for axis in range(axes):
        size, reach = x.shape[2 + axis], dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        steps = -(-size // stride[axis])
        total = max((steps - 1) * stride[axis] + reach - size, 0)
        small, large = total // 2, total - total // 2
        first.append(small if auto_pad == "SAME_UPPER" else large)
        last.append(large if auto_pad == "SAME_UPPER" else small)
    return first, last


def _double(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _raise_precision(model: ModelProto) -> None:
    """Rewrite every float constant, and every cast to a float type, of a model in place."""
    for function in model.functions:
        for node in function.node:
            _raise_node(node)
    _raise_graph(model.graph)


def _raise_graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _raise_tensor(tensor)
    for node in graph.node:
        _raise_node(node)


def _raise_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        for graph in attribute.graphs:
            _raise_graph(graph)
        if attribute.HasField("g"):
            _raise_graph(attribute.g)
        for tensor in _tensors(attribute):
            _raise_tensor(tensor)
    for attribute in list(node.attribute):
        if node.op_type in ("Cast", "EyeLike") and attribute.name in ("to", "dtype"):
            attribute.i = TensorProto.DOUBLE if attribute.i in _FLOATS else attribute.i
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            exact = np.asarray(onnx.helper.get_attribute_value(attribute), np.float64)
            attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(exact)))


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from attribute.tensors
    if attribute.HasField("t"):
        yield attribute.t


def _raise_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        exact = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
