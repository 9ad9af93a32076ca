"""Which nodes of a graph are quantized, and what a quantized one is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from ..reparam.graph.model import is_standard
from .gates import gate_nodes

#: Nodes of these kinds have weights, and a reason is given for each that stays in float.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizedLayer:
    """A Conv or Gemm in int8: symmetric, every zero point is 0.

    ``weight`` is [out, in/groups, kh, kw], a Gemm's [out, in]; ``weight_scales`` [out], one an
    output channel; ``input_scale`` one for the whole activation; ``bias`` [out] in float, which
    takes the place of the node's own (None: there is none).
    """

    name: str
    input_scale: float
    weight: NDArray[np.int8]
    weight_scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None

    def dequantized(self) -> NDArray[np.float32]:
        """The weight that the integers stand for, in float32 as DequantizeLinear gives it."""
        scales = self.weight_scales.reshape(-1, *[1] * (self.weight.ndim - 1))
        weight: NDArray[np.float32] = self.weight.astype(np.float32) * scales
        return weight


@dataclass(frozen=True)
class Layer:
    """A node to quantize. ``kind`` is Conv or Gemm; ``weight`` and ``bias`` name initializers.

    ``transposed``: a Gemm whose weight lies as [in, out].
    """

    name: str
    kind: str
    input: str
    weight: str
    bias: str | None
    groups: int = 1
    transposed: bool = False

    @property
    def key(self) -> str:
        return layer_key(self.name)


def layer_key(name: str) -> str:
    """What a layer's tensors are named after: ``stage0.rbr_reparam`` of
    ``stage0.rbr_reparam/Conv``."""
    return name.removesuffix("/Conv").removesuffix("/Gemm")


def find_layers(model: ModelProto, *, stem: bool = True, linear: bool = False) -> list[Layer]:
    """The nodes of a model that are quantized, in the order of the graph.

    ``model`` is as :func:`~repvgg_deploy.quantize.prepare.prepare` leaves it. Taken are 2-D
    convolutions with constant fp32 weights; without ``stem`` not those that no convolution
    precedes; with ``linear`` Gemm nodes too. Squeeze-excitation stays in float.
    """
    return [found for _, found in _judge(model, stem, linear) if isinstance(found, Layer)]


def weighted_layers(model: ModelProto) -> list[Layer]:
    """Every 2-D Conv and Gemm with constant fp32 weights, those of squeeze-excitation too."""
    graph = model.graph
    overridable = {value.name for value in graph.input}
    weights = {t.name: t for t in graph.initializer if t.name not in overridable}
    found = (
        _layer(node, weights, in_gate=False, first=False, stem=True, linear=True)
        for node in graph.node
        if node.op_type in WEIGHTED and is_standard(node.domain)
    )
    return [layer for layer in found if isinstance(layer, Layer)]


def left_in_float(model: ModelProto, *, stem: bool = True, linear: bool = False) -> dict[str, str]:
    """Why each other weighted node is not among :func:`find_layers`, by its name."""
    return {
        node.name: found for node, found in _judge(model, stem, linear) if isinstance(found, str)
    }


def _judge(model: ModelProto, stem: bool, linear: bool) -> Iterator[tuple[NodeProto, Layer | str]]:
    """Every weighted node with what it is quantized as, or why it is not."""
    graph = model.graph
    overridable = {value.name for value in graph.input}
    weights = {t.name: t for t in graph.initializer if t.name not in overridable}
    gates = gate_nodes(graph)
    after_conv: set[str] = set()
    for number, node in enumerate(graph.node):
        first = after_conv.isdisjoint(node.input)
        if node.op_type in WEIGHTED and is_standard(node.domain):
            if not node.name:
                raise ValueError("a node has no name: prepare() gives them")
            yield node, _layer(node, weights, number in gates, first, stem, linear)
        if not first or node.op_type == "Conv":
            after_conv.update(node.output)


def _layer(
    node: NodeProto,
    weights: dict[str, TensorProto],
    in_gate: bool,
    first: bool,
    stem: bool,
    linear: bool,
) -> Layer | str:
    if in_gate:
        return "belongs to squeeze-excitation"
    if node.op_type not in ("Conv", "Gemm"):
        return f"is a {node.op_type}, which is not quantized"
    if node.op_type == "Gemm" and not linear:
        return "is a linear layer, which is quantized on request"
    if node.op_type == "Conv" and first and not stem:
        return "is the stem"
    weight = weights.get(node.input[1])
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if weight is None or (bias is not None and bias not in weights):
        return "has weights that are not constant"
    if weight.data_type != TensorProto.FLOAT:
        return "has weights that are not fp32"
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        if len(weight.dims) != 4:
            return "is no 2-D convolution"
        groups = attributes.get("group", 1)
        return Layer(node.name, "Conv", node.input[0], weight.name, bias, groups)
    transposed = not attributes.get("transB", 0)
    plain = attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
    outputs = weight.dims[1 if transposed else 0]
    one_each = bias is None or list(weights[bias].dims) in ([outputs], [1, outputs])
    if attributes.get("transA", 0) or not plain or not one_each or len(weight.dims) != 2:
        return "is a Gemm of another form than x W + b"
    return Layer(node.name, "Gemm", node.input[0], weight.name, bias, transposed=transposed)
