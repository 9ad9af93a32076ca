"""How many channels each rank-4 tensor has, from the weights that touch it.

Scaling a channel, pooling and padding are convolutions only where the number of channels is
known; models seldom state the shapes of their inner tensors.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from onnx import NodeProto, ValueInfoProto

from .index import GraphIndex

ELEMENTWISE = ("Mul", "Add", "Sub", "Div")
#: Operators whose first input and first output have one rank and one number of channels.
_SAME = ("Identity", "Neg", "BatchNormalization", "AveragePool", "Pad")


@dataclass
class _Join:
    """A node of several branches: its output is known when they are, and agree."""

    output: str
    waiting: int
    channels: set[int] = field(default_factory=set)


def infer_channels(index: GraphIndex) -> dict[str, int]:
    """Tensor name -> channels, for tensors that are sure to be [N, C, H, W]. Linear in nodes."""
    links: dict[str, list[str]] = defaultdict(list)
    joins: dict[str, list[_Join]] = defaultdict(list)
    for node in index.nodes:
        if not index.is_standard(node):
            continue
        if node.op_type in _SAME:
            links[node.input[0]].append(node.output[0])
            links[node.output[0]].append(node.input[0])
        elif node.op_type in (*ELEMENTWISE, "Sum"):
            _link_elementwise(index, node, links, joins)

    known = _stated(index)
    queue = deque(known)
    while queue:
        name = queue.popleft()
        found = list(links[name])
        for join in joins[name]:
            join.waiting -= 1
            join.channels.add(known[name])
            if not join.waiting and len(join.channels) == 1:
                found.append(join.output)
        for other in found:
            if other not in known:
                known[other] = known[name]
                queue.append(other)
    return known


def _link_elementwise(
    index: GraphIndex,
    node: NodeProto,
    links: dict[str, list[str]],
    joins: dict[str, list[_Join]],
) -> None:
    """Broadcasting may add axes and channels, so what an operand has is told only by itself."""
    output = node.output[0]
    operands = [name for name in node.input if not index.is_constant(name)]
    if len(operands) == len(node.input):
        join = _Join(output, len(set(operands)))
        for name in set(operands):
            joins[name].append(join)
    elif len(operands) == 1 and len(node.input) == 2:
        (constant,) = (name for name in node.input if name not in operands)
        shape = index.shape(constant)
        links[operands[0]].append(output)
        if len(shape) <= 3 and all(size == 1 for size in shape):
            links[output].append(operands[0])


def _stated(index: GraphIndex) -> dict[str, int]:
    """Channels told by 2-D convolutions, and by declared shapes."""
    known = {}
    graph = index.model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (channels := _declared(value)) is not None:
            known[value.name] = channels
    for node in index.nodes:
        if node.op_type != "Conv" or not index.is_standard(node):
            continue
        if not index.is_constant(node.input[1]) or len(index.shape(node.input[1])) != 4:
            continue
        out_channels, columns = index.shape(node.input[1])[:2]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        known[node.input[0]] = columns * groups
        known[node.output[0]] = out_channels
    return known


def _declared(value: ValueInfoProto) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return dims[1].dim_value or None if len(dims) == 4 else None
