"""Carrying out a plan: weights are folded region by region, in float64."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..geometry import NotOneConv
from ..linear import LinearConv
from .index import GraphIndex
from .model import subgraphs
from .plan import Plan
from .regions import Region
from .result import FusedRegion, LeftRegion

Weights = NDArray[np.floating[Any]]

_DTYPES: dict[int, type[np.floating[Any]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}
#: A cast loses at most one unit roundoff of a weight, and more only below the normal numbers.
_LOSS = 4.0
#: A channel this much quieter than the loudest counts as silent, as in the proof.
_SILENT = 1e-6


def carry_out(plan: Plan) -> tuple[tuple[FusedRegion, ...], tuple[LeftRegion, ...]]:
    """Rewrite the model that was planned, in place.

    A region whose folded weights cannot be written in the model's precision stays as it is.
    Memory: one region in float64; weights that nobody reads any more are dropped at once.
    """
    rewriter = _Rewriter(plan.index)
    fused, left = [], list(plan.left)
    for region in plan.regions:
        record = plan.describe(region)
        try:
            rewriter.replace(region, _fold(plan, region))
        except NotOneConv as reason:
            left.append(LeftRegion(record.nodes, record.end, str(reason)))
        else:
            fused.append(record)
    rewriter.finish()
    return tuple(fused), tuple(left)


def _fold(plan: Plan, region: Region) -> LinearConv:
    """The one convolution of a region."""
    inside = [(plan.index.nodes[n].output[0], plan.operations[n]) for n in region.nodes]
    reads = Counter(name for _, operation in inside for name in operation.inputs)
    values: dict[str, LinearConv] = {}
    result: LinearConv | None = None
    for output, operation in inside:
        result = None
        for name, conv in zip(operation.inputs, operation.weights(), strict=True):
            branch = conv if name == region.source else values[name].then(conv)
            result = branch if result is None else result + branch
            reads[name] -= 1
            if not reads[name]:
                values.pop(name, None)  # kernels in float64 are large
        assert result is not None
        values[output] = result
    assert result is not None
    return result


class _Rewriter:
    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self._graph = index.model.graph
        self._weights = index.model.weights
        self._names = _all_names(index)
        self._new: dict[int, NodeProto] = {}
        self._removed: set[int] = set()
        self._gone: set[str] = set()
        self._reads = Counter({name: len(nodes) for name, nodes in index.readers.items()})

    def replace(self, region: Region, conv: LinearConv) -> None:
        """One Conv where the last node of ``region`` stood.

        NotOneConv where the precision of the model cannot hold its weights.
        """
        nodes = [self._index.nodes[number] for number in region.nodes]
        first = next(node for node in nodes if node.op_type == "Conv")
        dtype = _DTYPES[self._index.data_type(first.input[1])]
        kernel, bias = _cast(conv, dtype)
        end = nodes[-1].output[0]
        inputs = [region.source, self._add_weight(f"{end}.weight", kernel)]
        if bias.any():
            inputs.append(self._add_weight(f"{end}.bias", bias))
        self._new[region.nodes[-1]] = helper.make_node(
            "Conv",
            inputs,
            [end],
            name=self._fresh(f"{end}.conv"),
            dilations=conv.dilation,
            group=conv.groups,
            kernel_shape=conv.kernel_size,
            pads=conv.pads,
            strides=conv.stride,
        )
        for number in region.nodes:
            self._remove(number)

    def _add_weight(self, wanted: str, values: Weights) -> str:
        name = self._fresh(wanted)
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        if self._index.model.skeleton.ir_version < 4:  # every initializer was an input then
            tensor = self._weights[name]
            value = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            self._graph.input.append(value)
        return name

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def _remove(self, number: int) -> None:
        """Take out a node, and the constants that only it still read."""
        queue = [number]
        while queue:
            number = queue.pop()
            self._removed.add(number)
            if number not in self._new:
                self._gone.update(self._index.nodes[number].output)
            for name in filter(None, self._index.nodes[number].input):
                self._reads[name] -= 1
                unread = not self._reads[name] and name not in self._index.held
                if not unread or not self._index.is_constant(name):
                    continue
                if name in self._weights:
                    del self._weights[name]
                    self._gone.add(name)
                else:
                    queue.append(self._index.producer[name])

    def finish(self) -> None:
        """Put the new list of nodes in place, and forget what was declared of vanished tensors."""
        if not self._removed:
            return
        nodes = [
            self._new.get(number, node)
            for number, node in enumerate(self._index.nodes)
            if number in self._new or number not in self._removed
        ]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        _drop(self._graph.value_info, "name", self._gone)
        _drop(self._graph.quantization_annotation, "tensor_name", self._gone)
        if self._index.model.skeleton.ir_version < 4:
            _drop(self._graph.input, "name", self._gone)


def _cast(conv: LinearConv, dtype: type[np.floating[Any]]) -> tuple[Weights, Weights]:
    """Kernel and bias in ``dtype``; NotOneConv where they are out of its range.

    Loss in the bias is none: what it is added to is rounded as coarsely itself.
    """
    exact, offset = conv.kernel.numpy(), conv.bias.numpy()
    if not (np.isfinite(exact).all() and np.isfinite(offset).all()):
        raise NotOneConv("the folded weights hold NaN or infinity")
    with np.errstate(over="ignore"):
        kernel, bias = exact.astype(dtype), offset.astype(dtype)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise NotOneConv(f"the folded weights are too large for {np.dtype(dtype).name}")
    size = np.abs(exact).max((1, 2, 3))
    lost = np.abs(kernel.astype(np.float64) - exact).max((1, 2, 3))
    unit = float(np.finfo(dtype).eps) / 2
    if (lost > _LOSS * unit * np.maximum(size, _SILENT * size.max())).any():
        raise NotOneConv(f"the folded weights are too small for {np.dtype(dtype).name}")
    return kernel, bias


def _drop(entries: Any, key: str, names: set[str]) -> None:
    """Remove the entries of a repeated field that speak of ``names``."""
    kept = [entry for entry in entries if getattr(entry, key) not in names]
    if len(kept) < len(entries):
        del entries[:]
        entries.extend(kept)


def _all_names(index: GraphIndex) -> set[str]:
    """Every name in use, in subgraphs too: a new one must not be taken for an old one there."""
    names = set(index.model.weights)
    bodies = [body for node in index.nodes for body in subgraphs(node)]
    for graph in (index.model.graph, *bodies):
        names.update(value.name for value in (*graph.input, *graph.output, *graph.initializer))
        names.update(sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            names.update((node.name, *node.input, *node.output))
    return names
