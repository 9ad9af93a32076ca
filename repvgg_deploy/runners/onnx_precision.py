"""An ONNX model with every float in another precision: float64 for the truth, float32 to check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_FLOATS = (TensorProto.FLOAT, *_NARROW)
#: Attributes that name the type of a node's output.
_TYPES = {"Cast": "to", "DequantizeLinear": "output_dtype", "EyeLike": "dtype"}


def set_precision(model: ModelProto, element: int) -> None:
    """Rewrite every float constant, cast, input and output of a model in place.

    ``element`` is ``TensorProto.DOUBLE`` or ``FLOAT``, and both hold every value of a narrower
    type. What is in float64 already stays so.
    """
    for function in model.functions:
        for node in function.node:
            _set_node(node, element)
    _set_graph(model.graph, element)


def in_float32(model: ModelProto) -> ModelProto | None:
    """The model with its float16 and bfloat16 as float32; None where it has none.

    What only its subgraphs have does not count.
    """
    if not any(kind in _NARROW for kind in _element_types(model.graph)):
        return None
    single = ModelProto()
    single.CopyFrom(model)
    set_precision(single, TensorProto.FLOAT)
    return single


def _element_types(graph: GraphProto) -> Iterator[int]:
    for value in (*graph.input, *graph.output):
        yield value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        yield tensor.data_type
    for node in graph.node:
        for attribute in node.attribute:
            yield from (tensor.data_type for tensor in _tensors(attribute))
            if node.op_type == "Cast" and attribute.name == "to":
                yield attribute.i


def _set_graph(graph: GraphProto, element: int) -> None:
    del graph.value_info[:]  # inner tensors get their types from the constants
    for tensor in graph.initializer:
        _set_tensor(tensor, element)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = element
    for node in graph.node:
        _set_node(node, element)


def _set_node(node: NodeProto, element: int) -> None:
    for attribute in node.attribute:
        for graph in attribute.graphs:
            _set_graph(graph, element)
        if attribute.HasField("g"):
            _set_graph(attribute.g, element)
        for tensor in _tensors(attribute):
            _set_tensor(tensor, element)
        if _TYPES.get(node.op_type) == attribute.name and attribute.i in _FLOATS:
            attribute.i = element
    if element == TensorProto.DOUBLE:
        _widen_implied(node)


def _widen_implied(node: NodeProto) -> None:
    """Floats that ONNX defines as float32 without saying so."""
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", _tensor(np.zeros(1))))
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            value = np.asarray(helper.get_attribute_value(attribute), np.float64)
            attribute.CopyFrom(helper.make_attribute("value", _tensor(value)))


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from attribute.tensors
    if attribute.HasField("t"):
        yield attribute.t


def _set_tensor(tensor: TensorProto, element: int) -> None:
    if tensor.data_type in _FLOATS and tensor.data_type != element:
        values = numpy_helper.to_array(tensor)
        kind = helper.tensor_dtype_to_np_dtype(element)
        tensor.CopyFrom(_tensor(values.astype(kind), tensor.name))


def _tensor(values: NDArray[Any], name: str = "") -> TensorProto:
    return numpy_helper.from_array(values, name)
