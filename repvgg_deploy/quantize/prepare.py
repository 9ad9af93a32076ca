"""A graph made ready for quantization; what it computes does not change."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    defs,
    numpy_helper,
    shape_inference,
    version_converter,
)

from ..errors import UserError
from ..reparam.graph.index import GraphIndex
from ..reparam.graph.model import OnnxModel, is_standard, put_together, subgraphs, take_apart
from .layers import WEIGHTED

#: The first whose QuantizeLinear takes fp16.
OPSET, IR_VERSION = 19, 9
#: Operators whose meaning has not changed since opset 7 up to 19, only the types that they take.
_WIDENED = {
    "Abs", "Add", "And", "ArgMax", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gemm", "Greater",
    "Identity", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not",
    "PRelu", "Pow", "Reciprocal", "Relu", "Reshape", "Shape", "Sigmoid", "Sqrt", "Sub", "Sum",
    "Tanh", "Tile", "Transpose", "Where",
}  # fmt: skip


def prepare(model: ModelProto) -> ModelProto:
    """A copy for :func:`find_layers`: opset 19 or later, nodes named, sorted and with shapes.

    Every weighted node gets its weight and bias as initializers of its own, also where they came
    from Constant nodes or were shared. The same model gives the same names each time.

    Raises:
        UserError: external data or functions, nodes in a circle, or an operator that cannot be
            brought to opset 19.
    """
    if model.functions:
        raise UserError("the model holds functions; inline them (onnx.inliner) first.")
    copy = ModelProto()
    copy.CopyFrom(model)
    if copy.ir_version < 4:  # there every initializer is an input too
        _drop_constant_inputs(copy.graph)
    copy = _raise_opset(copy)
    copy.ir_version = max(copy.ir_version, IR_VERSION)
    _name_nodes(copy.graph)
    apart = take_apart(copy)
    _own_weights(apart)
    _drop_unread(apart)
    whole = put_together(apart)
    del whole.graph.value_info[:]
    return shape_inference.infer_shapes(whole)


def _drop_constant_inputs(graph: GraphProto) -> None:
    constant = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in constant]
    del graph.input[:]
    graph.input.extend(kept)


def _raise_opset(model: ModelProto) -> ModelProto:
    """The operators as opset 19 has them."""
    versions = [o for o in model.opset_import if is_standard(o.domain)]
    now = max((o.version for o in versions), default=0)
    if now >= OPSET:
        return model
    operators = {node.op_type for node in _all_nodes(model.graph) if is_standard(node.domain)}
    if all(_means_the_same(kind, now) for kind in operators):
        for entry in versions:
            entry.version = OPSET
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's own exceptions have no common root
        raise UserError(
            f"the model is of opset {now} and cannot be brought to {OPSET}, which quantization "
            f"takes ({' '.join(str(error).split())[:200]}); export it with opset {OPSET}."
        ) from error


def _means_the_same(kind: str, opset: int) -> bool:
    if not defs.has(kind):
        return False
    since: int = defs.get_schema(kind, OPSET).since_version
    return since <= opset or (kind in _WIDENED and opset >= 13)


def _all_nodes(graph: GraphProto) -> list[NodeProto]:
    inner = (body.node for node in graph.node for body in subgraphs(node))
    return [*graph.node, *(node for nodes in inner for node in nodes)]


def _name_nodes(graph: GraphProto) -> None:
    """A name that nodes share, or that one lacks, gives way to that of the first output."""
    uses = Counter(node.name for node in graph.node)
    taken = {name for name, count in uses.items() if count == 1}
    for node in graph.node:
        if not node.name or uses[node.name] > 1:
            node.name = fresh(f"{node.output[0]}/{node.op_type}", taken)


def fresh(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it if that is taken; takes it."""
    found, number = name, 1
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _own_weights(model: OnnxModel) -> None:
    """Weights and biases of weighted nodes that are constant, as initializers that none shares."""
    index = GraphIndex(model)
    taken = {*model.weights, *index.producer, *(value.name for value in model.graph.input)}
    for node in index.nodes:
        if node.op_type not in WEIGHTED or not is_standard(node.domain):
            continue
        for place, part in enumerate(node.input[1:], start=1):
            alone = len(index.readers[part]) == 1 and part not in index.held
            if not part or not index.is_constant(part) or (part in model.weights and alone):
                continue
            kind = onnx.helper.tensor_dtype_to_np_dtype(index.data_type(part))
            values = np.ascontiguousarray(index.numbers(part).astype(kind))
            own = fresh(f"{node.name}.{('weight', 'bias')[place - 1]}", taken)
            model.weights[own] = numpy_helper.from_array(values, own)
            node.input[place] = own


def _drop_unread(model: OnnxModel) -> None:
    """Initializers and Constant nodes that nothing reads any more."""
    while True:
        index = GraphIndex(model)
        read = {*index.held, *(name for name, readers in index.readers.items() if readers)}
        dead = [
            number
            for number, node in enumerate(index.nodes)
            if node.op_type in ("Constant", "Identity") and read.isdisjoint(node.output)
        ]
        for name in set(model.weights) - read:
            del model.weights[name]
        if not dead:
            return
        for number in reversed(dead):
            del model.graph.node[number]
