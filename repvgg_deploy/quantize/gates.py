"""Squeeze-excitation, told by the graph: what lies between a pooled map and the Mul that it gates.

Hu et al., CVPR 2018. One number a channel decides how much of the channel passes, so a step of int8
there moves a whole channel, and the time it takes is next to none.
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto

_POOL_ALL = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}
_POOL = {"AveragePool", "MaxPool"}
#: Of these only the first input carries the map; the others say its shape.
_SHAPED = {"Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}


def gate_nodes(graph: GraphProto) -> set[int]:
    """Numbers of the nodes that turn a pooled map into the factors of a Mul."""
    constant = {tensor.name for tensor in graph.initializer}
    single = _single_pixels(graph)
    pooled: set[str] = set()
    gates: set[str] = set()
    for node in graph.node:
        if node.op_type in _POOL_ALL or (node.op_type in _POOL and node.output[0] in single):
            pooled.update(node.output)
            continue
        inputs = set(node.input[:1] if node.op_type in _SHAPED else node.input) - {""}
        if inputs and inputs <= constant | pooled and inputs & pooled:
            pooled.update(node.output)
        elif node.op_type == "Mul":
            gates |= inputs & pooled
        elif inputs <= constant and not _has_body(node):
            constant.update(node.output)
    return _makers(graph, gates, pooled)


def _makers(graph: GraphProto, wanted: set[str], pooled: set[str]) -> set[int]:
    """Nodes that make ``wanted`` out of pooled maps."""
    wanted = set(wanted)
    found = set()
    for number in reversed(range(len(graph.node))):
        node = graph.node[number]
        if wanted.intersection(node.output):
            found.add(number)
            wanted.update(pooled.intersection(node.input))
    return found


def _single_pixels(graph: GraphProto) -> set[str]:
    """Maps of one pixel, [N, C, 1, 1], as far as their shapes are known."""
    return {
        value.name
        for value in graph.value_info
        if [dim.dim_value for dim in value.type.tensor_type.shape.dim][2:] == [1, 1]
    }


def _has_body(node: NodeProto) -> bool:
    return any(a.HasField("g") or a.graphs for a in node.attribute)
