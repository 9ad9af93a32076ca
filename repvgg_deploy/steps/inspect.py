"""inspect: what a checkpoint or an ONNX model holds, and what fuse would do; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.spec import Form
from ..quantize.read import read_qdq
from ..reparam.graph.files import load_model, read_model
from ..reparam.graph.plan import Plan, make_plan
from ..reparam.graph.result import FusedRegion, LeftRegion
from .assumptions import Assumptions, find_assumptions
from .inventory import (
    BlockCount,
    BlockEntry,
    architecture,
    count_blocks,
    list_blocks,
    parameters,
    training_only,
)
from .weights import Reading, WeightsFile, read_weights, why_no_blocks


@dataclass(frozen=True)
class CheckpointInspection:
    """``left`` maps the paths of blocks that would stay as they are to the reason.

    ``held`` says how the state dict was held in the file. ``nothing`` says why there is nothing to
    fuse, and is empty where there is. ``training_only`` are keys that fuse
    leaves out. ``spec`` is None where the file holds no whole RepVGG network; ``not_whole`` says
    why. Parameters are what training learns, so without batch norm's statistics.
    """

    path: Path
    format: str
    held: str
    form: Form
    architecture: str
    spec: dict[str, Any] | None
    not_whole: str
    nothing: str
    reading: Reading
    kinds: list[BlockCount]
    blocks: list[BlockEntry]
    left: dict[str, str]
    training_only: list[str]
    parameters: int
    parameters_after: int
    assumptions: Assumptions


@dataclass(frozen=True)
class OnnxInspection:
    """What would be fused; parameters are numbers in the main graph's initializers.

    ``quantized`` says what of it is in int8, empty where there are no Q/DQ nodes.
    """

    path: Path
    opset: int
    operators: dict[str, int]
    fused: tuple[FusedRegion, ...]
    left: tuple[LeftRegion, ...]
    parameters: int
    parameters_after: int
    quantized: str


def inspect_checkpoint(path: Path, reading: Reading) -> CheckpointInspection:
    """Read and check a checkpoint of any family.

    Raises:
        UserError: one sentence that names the file and what is wrong with it.
    """
    weights = read_weights(path, reading)
    blocks, kinds = list_blocks(weights), count_blocks(weights)
    dropped = training_only(weights)
    before = parameters(weights, weights.checkpoint.state)
    saved = sum(block.parameters - block.parameters_after for block in blocks)
    return CheckpointInspection(
        path=path,
        format=weights.checkpoint.kind,
        held=weights.checkpoint.wrapper,
        form=weights.form,
        architecture=architecture(weights, kinds),
        spec=None if weights.whole is None else weights.whole.spec.to_dict(),
        not_whole=weights.partial,
        nothing=_why_nothing(weights),
        reading=reading,
        kinds=kinds,
        blocks=blocks,
        left=weights.left,
        training_only=dropped,
        parameters=before,
        parameters_after=before - saved - parameters(weights, dropped),
        assumptions=find_assumptions(weights),
    )


def _why_nothing(weights: WeightsFile) -> str:
    if weights.blocks:
        return ""
    return "it is fused already." if weights.holds_fused else why_no_blocks(weights)


def inspect_onnx(path: Path, *, allow_costlier: bool = False) -> OnnxInspection:
    """Plan only: no kernel is read and nothing is written. UserError: the file cannot be used."""
    model = read_model(path)
    plan = make_plan(model, allow_costlier)
    fused = tuple(plan.describe(region) for region in plan.regions)
    before = sum(prod(tensor.dims) for tensor in model.weights.values())
    saved = _unread_after(plan) - sum(region.weights_after for region in fused)
    operators = dict(Counter(node.op_type for node in model.graph.node).most_common())
    quantized, layers = _quantized(path, operators)
    left = tuple(region for region in plan.left if layers.isdisjoint(region.nodes))
    return OnnxInspection(
        path, model.opset, operators, fused, left, before, before - saved, quantized
    )


def _quantized(path: Path, operators: Mapping[str, int]) -> tuple[str, set[str]]:
    """What is in int8, in words, and those nodes as a region lists them."""
    if "DequantizeLinear" not in operators:
        return "", set()
    try:
        found = read_qdq(load_model(path))
    except UserError as error:
        return f"no int8 model that TensorRT takes: {error}", set()
    count = len(found.layers)
    kept = f"; in float: {', '.join(found.kept)}" if found.kept else ""
    words = f"in int8: {count} of {count + len(found.kept)} weighted layers{kept}"
    return words, {f"Conv {layer.name!r}" for layer in found.layers}


def _unread_after(plan: Plan) -> int:
    """Numbers in initializers that only the regions read; several may share one."""
    index, vanished = plan.index, {number for region in plan.regions for number in region.nodes}
    return sum(
        prod(tensor.dims)
        for name, tensor in index.model.weights.items()
        if index.readers[name] and vanished.issuperset(index.readers[name])
        if name not in index.held
    )
