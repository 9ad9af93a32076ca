"""What of a model would be fused, and why the rest would not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from math import prod

from ..geometry import NotOneConv
from .channels import infer_channels
from .index import GraphIndex, describe
from .model import OnnxModel
from .operators import Operation, read_operation
from .regions import OPEN_SOURCES, Form, Forms, Region, select_regions
from .result import FusedRegion, LeftRegion

#: Before it, Mul and Add broadcast in another way and BatchNormalization had other modes.
OLDEST_OPSET = 7


@dataclass(frozen=True)
class Plan:
    """Regions to fuse and what stays; ``operations`` maps a node's number to what it does."""

    index: GraphIndex
    operations: dict[int, Operation]
    regions: tuple[Region, ...]
    left: tuple[LeftRegion, ...]

    def describe(self, region: Region) -> FusedRegion:
        """A region as the report shows it."""
        (term,) = region.form.terms.values()
        nodes = [self.index.nodes[number] for number in region.nodes]
        constants = {name for node in nodes for name in node.input if self.index.is_constant(name)}
        geometry = term.geometry
        return FusedRegion(
            nodes=tuple(describe(node) for node in nodes),
            source=region.source,
            end=nodes[-1].output[0],
            convs=region.form.convs,
            macs_before=region.form.macs,
            macs_after=geometry.multiply_adds,
            weights_before=sum(prod(self.index.shape(name)) for name in constants),
            weights_after=geometry.weights + geometry.out_channels * geometry.biased,
        )


def make_plan(model: OnnxModel, allow_costlier: bool = False) -> Plan:
    """Plan the fusion of a model; reads no kernels, and changes nothing."""
    index = GraphIndex(model)
    if index.opset and index.opset < OLDEST_OPSET:
        reason = f"opset {index.opset} is too old; convert the model to {OLDEST_OPSET} or later"
        return Plan(index, {}, (), (LeftRegion((), "", reason),))
    channels = infer_channels(index)
    operations: dict[int, Operation] = {}
    refusals: dict[int, str] = {}
    for number, node in enumerate(index.nodes):
        try:
            operation = read_operation(node, index, channels)
        except NotOneConv as reason:
            refusals[number] = str(reason)
        else:
            if operation is not None:
                operations[number] = operation
    forms = Forms(index, operations, allow_costlier)
    regions = select_regions(index, operations, forms.forms)
    left = _left(index, operations, refusals, forms, regions)
    return Plan(index, operations, tuple(regions), tuple(left))


def _left(
    index: GraphIndex,
    operations: dict[int, Operation],
    refusals: dict[int, str],
    found: Forms,
    regions: Iterable[Region],
) -> list[LeftRegion]:
    """One entry for each place where a convolution and a linear neighbour stay apart."""
    vanished = {number for region in regions for number in region.nodes[:-1]}
    left: dict[int, LeftRegion] = {}
    roots = _roots(found.forms)

    def note(number: int, others: Iterable[int], reason: str) -> None:
        names = tuple(describe(index.nodes[n]) for n in (number, *others))
        left[number] = LeftRegion(names, index.nodes[number].output[0], reason)

    for number, operation in operations.items():
        node = index.nodes[number]
        name = node.output[0]
        form = found.forms[name]
        if number in vanished:
            continue
        readers = [n for n in index.readers[name] if n in operations]
        if name in found.refused and _any_conv(index, found.forms, form, readers):
            note(number, readers, found.refused[name])
        elif len(operation.inputs) > 1 and len(form.terms) > 1 and form.convs:
            if roots[name] and any(source in found.refused for source in form.terms):
                continue  # one tensor after all: what could not join has its own line
            sources = ", ".join(map(repr, islice(form.terms, OPEN_SOURCES)))
            more = " and others" if len(form.terms) > OPEN_SOURCES else ""
            note(number, (), f"its branches start from different tensors: {sources}{more}")
    for number, reason in refusals.items():
        node = index.nodes[number]
        if node.op_type == "Conv" or _beside_conv(index, number):
            note(number, (), reason)
    return [left[number] for number in sorted(left)]


def _roots(forms: dict[str, Form]) -> dict[str, str | None]:
    """The one tensor that a form starts from behind all linear nodes; None where it is several."""
    roots: dict[str, str | None] = {}
    for name, form in forms.items():  # in graph order
        behind = {roots.get(source, source) for source in form.terms}
        roots[name] = behind.pop() if len(behind) == 1 else None
    return roots


def _any_conv(
    index: GraphIndex, forms: dict[str, Form], form: Form, readers: Iterable[int]
) -> bool:
    return bool(form.convs) or any(forms[index.nodes[n].output[0]].convs for n in readers)


def _beside_conv(index: GraphIndex, number: int) -> bool:
    node = index.nodes[number]
    makers = [index.producer[name] for name in node.input if name in index.producer]
    readers = [n for name in node.output for n in index.readers[name]]
    return any(index.nodes[n].op_type == "Conv" for n in (*makers, *readers))
