"""Who makes and who reads each tensor of a graph, and which tensors are constant."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from .model import OnnxModel, is_standard, subgraphs, to_array

#: Attributes of Constant that hold numbers (the others hold strings or sparse tensors).
_NUMBERS = ("value", "value_float", "value_floats", "value_int", "value_ints")


class GraphIndex:
    """The main graph of a model, looked up by tensor name.

    ``readers`` lists node numbers, one entry a read; ``held`` says of a tensor why it has to stay
    although no node of the main graph reads it (an output, or a subgraph reads it).
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.opset = model.opset
        self.producer: dict[str, int] = {}
        self.readers: dict[str, list[int]] = defaultdict(list)
        self.held: dict[str, str] = {}
        self._functions = {(f.domain, f.name) for f in model.skeleton.functions}
        inputs = {value.name for value in model.graph.input}
        # Since IR version 4 an initializer that is an input too can be overridden by the caller.
        self._overridable = inputs if model.skeleton.ir_version >= 4 else set()
        self._constants: dict[str, NodeProto] = {}
        #: output of an Identity of a constant -> that constant; exporters share equal weights so
        self.alias: dict[str, str] = {}
        for number, node in enumerate(self.nodes):
            self._add(number, node)
        for output in model.graph.output:
            self.held[output.name] = "is an output of the model"

    def _add(self, number: int, node: NodeProto) -> None:
        for name in node.output:
            self.producer[name] = number
        for name in filter(None, node.input):
            self.readers[name].append(number)
        for name in outer_names(node):
            self.held[name] = f"is read inside {describe(node)}"
        if not self.is_standard(node):
            return
        if node.op_type == "Constant" and any(a.name in _NUMBERS for a in node.attribute):
            self._constants[node.output[0]] = node
        if node.op_type == "Identity" and self.is_constant(node.input[0]):
            self.alias[node.output[0]] = node.input[0]

    def is_standard(self, node: NodeProto) -> bool:
        """Whether the operator is ONNX's own, not a custom or model-local one of that name."""
        return is_standard(node.domain) and (node.domain, node.op_type) not in self._functions

    def is_constant(self, name: str) -> bool:
        if name in self.model.weights:
            return name not in self._overridable
        return name in self._constants or name in self.alias

    def _tensor(self, name: str) -> TensorProto:
        while name in self.alias:
            name = self.alias[name]
        if name in self.model.weights:
            return self.model.weights[name]
        (attribute,) = self._constants[name].attribute
        if attribute.name == "value":
            tensor: TensorProto = attribute.t
            return tensor
        values = np.asarray(helper.get_attribute_value(attribute))
        kind = TensorProto.FLOAT if values.dtype.kind == "f" else TensorProto.INT64
        return helper.make_tensor(name, kind, values.shape, values.flatten().tolist())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant, without reading its numbers."""
        return tuple(self._tensor(name).dims)

    def data_type(self, name: str) -> int:
        """The ONNX element type of a constant."""
        return self._tensor(name).data_type

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A constant in float64."""
        return to_array(self._tensor(name), self.model.folder).astype(np.float64)


def outer_names(node: NodeProto) -> set[str]:
    """Names that a node's subgraphs mention; those of outer tensors are among them."""
    names: set[str] = set()
    for body in subgraphs(node):
        names.update(name for inner in body.node for name in inner.input)
        names.update(output.name for output in body.output)
    return names - {""}


def describe(node: NodeProto) -> str:
    """A node as a reader of the report can find it."""
    return f"{node.op_type} {(node.name or node.output[0])!r}"
