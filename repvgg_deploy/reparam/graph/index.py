"""Who makes and who reads each tensor of a graph, and which tensors are constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper

from ..geometry import NotOneConv
from .model import OnnxModel, is_standard, outer_names, to_array

#: Operators that the fusion looks into; what is malformed among them is left alone.
READ = {
    "Conv", "BatchNormalization", "AveragePool", "Pad", "Identity", "Neg",
    "Mul", "Add", "Sub", "Div", "Sum",
}  # fmt: skip
#: Attributes of Constant that hold numbers (the others hold strings or sparse tensors).
_NUMBERS = ("value", "value_float", "value_floats", "value_int", "value_ints")
#: What an exporter takes to compute a padding is a dozen tensors; a network's body is not walked.
_FEW = 50


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
        self._functions = {(_domain(f.domain), f.name) for f in model.skeleton.functions}
        self._context = checker.C.CheckerContext()
        self._context.ir_version = model.skeleton.ir_version
        self._context.opset_imports = {"": self.opset}
        self._malformed = {id(node) for node in self.nodes if not self._is_well_formed(node)}
        inputs = {value.name for value in model.graph.input}
        # Since IR version 4 an initializer that is an input too can be overridden by the caller.
        self._overridable = inputs if model.skeleton.ir_version >= 4 else set()
        self._constants: dict[str, NodeProto] = {}
        #: output of an Identity of a constant -> that constant; exporters share equal weights so
        self._alias: dict[str, str] = {}
        for number, node in enumerate(self.nodes):
            self._add(number, node)
        for annotation in model.graph.quantization_annotation:
            for entry in annotation.quant_parameter_tensor_names:
                self.held[entry.value] = "is named by a quantization annotation"
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
        names = [attribute.name for attribute in node.attribute]
        if node.op_type == "Constant" and len(names) == 1 and names[0] in _NUMBERS:
            self._constants[node.output[0]] = node
        if node.op_type == "Identity" and self.is_constant(node.input[0]):
            self._alias[node.output[0]] = self._alias.get(node.input[0], node.input[0])

    def is_standard(self, node: NodeProto) -> bool:
        """Whether the operator is ONNX's own, not a custom or model-local one of that name.

        Nodes that ONNX's schema refuses count as foreign: nobody knows what they mean.
        """
        own = is_standard(node.domain) and ("", node.op_type) not in self._functions
        return own and id(node) not in self._malformed

    def _is_well_formed(self, node: NodeProto) -> bool:
        """Inputs, outputs and attributes as the operator's schema has them."""
        if node.op_type == "Constant":  # may be large, and the checker copies it
            return len(node.output) == 1 and bool(node.output[0])
        if node.op_type not in READ or not is_standard(node.domain):
            return True
        if not node.output or not all((node.output[0], *node.input[:1])):
            return False
        plain = NodeProto()  # the checker knows the standard domain by its short name
        plain.CopyFrom(node)
        plain.domain = ""
        try:
            checker.check_node(plain, self._context)
        except checker.ValidationError:
            return False
        return True

    def is_constant(self, name: str) -> bool:
        if name in self.model.weights:
            return name not in self._overridable
        return name in self._constants or name in self._alias

    def check_weights(self, names: Iterable[str]) -> None:
        """NotOneConv where one of a node's weights is not constant."""
        for name in names:
            if name in self.model.weights and name in self._overridable:
                raise NotOneConv(
                    f"its weights {name!r} are an input of the model too, so a caller may replace "
                    "them; run `python -m onnxruntime.tools.remove_initializer_from_input --input "
                    "model.onnx --output plain.onnx` first"
                )
            if not self.is_constant(name):
                raise NotOneConv("its weights are not constant")

    def follows_from_constants(self, name: str) -> bool:
        """Whether a few nodes compute ``name`` from constants alone: a simplifier makes it one."""
        seen, queue = {name}, [name]
        while queue:
            name = queue.pop()
            if self.is_constant(name):
                continue
            if name not in self.producer or len(seen) > _FEW:
                return False
            node = self.nodes[self.producer[name]]
            for other in filter(None, (*node.input, *outer_names(node))):
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
        return True

    def _tensor(self, name: str) -> TensorProto:
        name = self._alias.get(name, name)
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
        """A constant in float64; NotOneConv where it holds no numbers, or is damaged."""
        try:
            return to_array(self._tensor(name), self.model.folder).astype(np.float64)
        except (ValueError, TypeError, KeyError) as error:
            raise NotOneConv(f"the constant {name!r} cannot be read as numbers") from error


def describe(node: NodeProto) -> str:
    """A node as a reader of the report can find it."""
    return f"{node.op_type} {(node.name or ', '.join(node.output))!r}"


def _domain(domain: str) -> str:
    """The standard domain has two names."""
    return "" if is_standard(domain) else domain
