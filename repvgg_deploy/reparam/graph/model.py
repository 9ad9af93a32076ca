"""An ONNX model with its weights taken out: they may be large, or lie in files of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from ...errors import UserError
from .external import is_external, read_in


@dataclass
class OnnxModel:
    """``skeleton`` is the model without the initializers of its main graph.

    Those are in ``weights``, each a message of its own, so that dropping one frees its memory
    (inside a ModelProto nothing is ever freed). ``folder`` is where external data lies, None
    where the model has none to read.
    """

    skeleton: ModelProto
    weights: dict[str, TensorProto]
    folder: Path | None = None

    @property
    def graph(self) -> GraphProto:
        return self.skeleton.graph

    @property
    def opset(self) -> int:
        """Version of the standard operators; 0 where the model uses none."""
        versions = [o.version for o in self.skeleton.opset_import if is_standard(o.domain)]
        return max(versions, default=0)


def is_standard(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def take_apart(model: ModelProto, folder: Path | None = None) -> OnnxModel:
    """Move the weights out of ``model``, which is left without them; nodes are sorted."""
    weights = {}
    for tensor in model.graph.initializer:
        weights[tensor.name] = TensorProto()
        weights[tensor.name].CopyFrom(tensor)
    del model.graph.initializer[:]
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    sort_nodes(skeleton.graph)
    return OnnxModel(skeleton, weights, folder)


def put_together(model: OnnxModel) -> ModelProto:
    """Move the weights back into the skeleton; ``model`` is used up."""
    while model.weights:
        name = next(iter(model.weights))
        model.graph.initializer.append(model.weights.pop(name))
    return model.skeleton


def to_array(tensor: TensorProto, folder: Path | None) -> NDArray[np.generic]:
    """A tensor's numbers, read from its file where they are external."""
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    loaded = TensorProto()  # reading fills the message, and the model's own has to stay small
    loaded.CopyFrom(tensor)
    assert folder is not None
    read_in(loaded, folder)
    return numpy_helper.to_array(loaded)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop and Scan, bodies in bodies included."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield graph
            for inner in graph.node:
                yield from subgraphs(inner)


def outer_names(node: NodeProto) -> set[str]:
    """Names that a node's subgraphs mention; those of outer tensors are among them."""
    names: set[str] = set()
    for body in subgraphs(node):
        names.update(name for inner in body.node for name in inner.input)
        names.update(output.name for output in body.output)
    return names - {""}


def sort_nodes(graph: GraphProto) -> None:
    """Put every node after those that make what it reads; most graphs come so.

    Raises:
        UserError: nodes that wait for each other.
    """
    nodes = list(graph.node)
    makers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    before = {
        number: {makers[name] for name in {*node.input, *outer_names(node)} if name in makers}
        for number, node in enumerate(nodes)
    }
    if all(maker < number for number, needed in before.items() for maker in needed):
        return
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise UserError("the nodes of the graph form a circle; export the model again.") from error
    del graph.node[:]
    graph.node.extend(nodes[number] for number in order)


def inner_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model but the initializers of its main graph."""
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    for node in nodes:
        bodies = list(subgraphs(node))
        for body in bodies:
            yield from body.initializer
        for owner in (node, *(inner for body in bodies for inner in body.node)):
            for attribute in owner.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def largest_weight(model: ModelProto, folder: Path) -> tuple[str, float]:
    """The constant of a model with the largest number, and that; one with NaN counts as larger."""
    name, largest = "", 0.0
    for tensor in (*model.graph.initializer, *inner_tensors(model)):
        if tensor.data_type in _FLOATS:
            value = float(np.abs(to_array(tensor, folder)).max(initial=0))
            if np.isnan(value):
                return str(tensor.name), value
            if value > largest:
                name, largest = str(tensor.name), value
    return name, largest
