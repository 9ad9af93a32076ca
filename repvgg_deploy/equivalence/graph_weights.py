"""Weights of two ONNX graphs, where the second one's follow from the first one's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto
from torch import Tensor

from ..artifacts import PRODUCER
from ..errors import UserError
from ..reparam.graph.files import load_model, read_model
from ..reparam.graph.model import OnnxModel
from ..reparam.graph.plan import make_plan
from ..reparam.graph.rewrite import carry_out
from .onnx_layers import to_tensor
from .weights import Meant, WeightCheck, compare_weights, failed, not_compared, refolded


def check_graph_weights(
    reference: Path, candidate: Path, regions: Sequence[str] | None
) -> WeightCheck:
    """Fuse ``reference`` again and compare every tensor with that of ``candidate``.

    ``regions`` are the ends of the regions that the candidate's sidecar says were fused in
    ``reference``; None: it says nothing of this pair. Then nodes that are exactly those that fuse
    makes tell as much. Two models that export wrote are compared as they are.
    """
    found = load_model(candidate)
    if (check := _as_it_is(reference, found)).exact:
        return check
    for allow_costlier in (False, True):
        try:
            model = read_model(reference)
            before = set(model.weights)
            fused, _ = carry_out(make_plan(model, allow_costlier))
        except UserError as error:  # that it runs does not mean that it can be fused
            return not_compared(str(error).removesuffix("."))
        exported = model.skeleton.producer_name == PRODUCER == found.producer_name
        if _nodes(model.graph.node) == _nodes(found.graph.node) and (
            fused or regions is not None or exported
        ):
            return compare_weights(_pairs(model, found, before), must_be_exact=True)
        if regions is not None and set(regions) == {region.end for region in fused}:
            return failed("its nodes are not those that fuse makes of the reference")
    if regions is not None:
        return not_compared("fuse makes other regions of the reference today")
    return not_compared("another tool made it, so the outputs alone decide")


def bare(node: NodeProto) -> bytes:
    """What a node computes and of what, to be compared; without its documentation."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("doc_string")
    copy.ClearField("metadata_props")
    copy.attribute.sort(key=lambda attribute: attribute.name)
    return bytes(copy.SerializeToString(deterministic=True))


def _as_it_is(reference: Path, found: ModelProto) -> WeightCheck:
    """Whether ``found`` is the reference, node by node and number by number."""
    try:
        model = read_model(reference)
    except UserError as error:
        return not_compared(str(error))
    alike = (
        _nodes(model.graph.node) == _nodes(found.graph.node)
        and list(model.skeleton.functions) == list(found.functions)
        and list(model.skeleton.opset_import) == list(found.opset_import)
    )
    if not alike:
        return not_compared("its nodes are others")
    return compare_weights(_pairs(model, found, set(model.weights)), must_be_exact=True)


def _nodes(nodes: Iterable[NodeProto]) -> list[bytes]:
    """Constants are weights, which may differ."""
    return [b"".join(map(str.encode, n.output)) if _constant(n) else bare(n) for n in nodes]


def _constant(node: NodeProto) -> TensorProto | None:
    """The tensor of a node that holds one."""
    if node.op_type == "Constant" and [a.name for a in node.attribute] == ["value"]:
        held: TensorProto = node.attribute[0].t
        return held
    return None


def _pairs(
    model: OnnxModel, found: ModelProto, before: set[str]
) -> Iterator[tuple[str, Meant, Tensor | None]]:
    """Tensors that were not in ``before`` have been folded."""
    held = {t.name: t for t in found.graph.initializer} | _constants(found.graph.node)
    for name, tensor in (model.weights | _constants(model.graph.node)).items():
        other = held.get(name)
        meant = to_tensor(tensor, model.folder)
        given = None if other is None else to_tensor(other)
        if given is not None and given.dtype.itemsize > meant.dtype.itemsize:
            given = given.to(meant.dtype)  # the reference is a rounded copy
        yield name, Meant(meant) if name in before else refolded(meant), given


def _constants(nodes: Iterable[NodeProto]) -> dict[str, TensorProto]:
    return {node.output[0]: found for node in nodes if (found := _constant(node)) is not None}
