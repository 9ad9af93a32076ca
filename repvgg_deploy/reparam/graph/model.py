"""An ONNX model with its weights taken out: they may be large, or lie in files of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

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
    """Move the weights out of ``model``, which is left without them."""
    weights = {}
    for tensor in model.graph.initializer:
        weights[tensor.name] = TensorProto()
        weights[tensor.name].CopyFrom(tensor)
    del model.graph.initializer[:]
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
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
