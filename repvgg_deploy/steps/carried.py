"""The weights that files made from a checkpoint have to hold, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from onnx import ModelProto
from torch import Tensor

from ..artifacts import PRODUCER
from ..equivalence.onnx_layers import OnnxLayer, onnx_layers, torch_layers
from ..equivalence.weights import (
    Meant,
    WeightCheck,
    compare_weights,
    failed,
    folded,
    not_compared,
)
from ..export.simplify import PLAIN, SQUEEZE_EXCITE, operators
from ..files import sha256_file
from ..models.build import skeleton
from ..models.network import RepVGG
from ..models.spec import ArchSpec
from ..quantize.layers import layer_key
from ..reparam.blocks import State, TrainBlock
from ..reparam.graph import fuse_graph
from ..sidecar import lineage
from .weights import Network, WeightsFile

#: Nodes that hold weights, or only rename a tensor.
_CONSTANTS = {"Constant", "Identity"}

Pairs = Iterator[tuple[str, Meant, Tensor | None]]


def made_from(candidate: Path, reference: Path) -> bool:
    """Whether the sidecars say that this tool made ``candidate`` from ``reference``."""
    sources = lineage(candidate)
    return bool(sources) and sha256_file(reference) in {source.sha256 for source in sources}


def check_blocks(
    reference: WeightsFile, fused: Mapping[str, Tensor], must_be_exact: bool
) -> WeightCheck:
    """The fused tensors of blocks, under the names that ``reference`` gives them."""
    state, eps = reference.checkpoint.state, reference.reading.eps
    return compare_weights(_folded_pairs(state, reference.blocks, eps, fused), must_be_exact)


def check_network(
    reference: WeightsFile, candidate: WeightsFile, must_be_exact: bool
) -> WeightCheck:
    """All tensors of the deploy form of a whole network, in two files of either form."""
    first, second = reference.network, candidate.network
    if candidate.form == "train":
        held = {name: meant.values for name, meant in meant_tensors(candidate)}
    else:
        held = dict(second.state)
    pairs = ((name, meant, held.get(name)) for name, meant in meant_tensors(reference))
    return compare_weights(pairs, must_be_exact and first.form != second.form)


def check_exported(
    reference: WeightsFile, model: ModelProto, must_be_exact: bool = False
) -> WeightCheck:
    """An ONNX model of a whole network: layer by layer, rounded to the model's own types.

    One in training form is fused first. A model that another tool wrote is compared in the order in
    which its layers run, and where its layers or weights are others, its outputs decide.
    """
    spec, layers = reference.network.spec, onnx_layers(model)
    ours = must_be_exact or model.producer_name == PRODUCER
    in_training_form = len(layers) > len(_names(spec))
    if in_training_form:
        model = fuse_graph(model).model
        layers = onnx_layers(model)
    if more := set(operators(model)) - PLAIN - SQUEEZE_EXCITE - _CONSTANTS:
        problem = f"it holds {', '.join(sorted(more))}, which no deployed RepVGG does"
        return failed(problem) if ours else not_compared(problem)
    if problem := _other_layers(spec, layers, named=ours and not in_training_form):
        return failed(problem) if ours else not_compared(problem)
    found: dict[str, Tensor | None] = {}
    for name, layer in zip(_names(spec), layers, strict=True):
        found[f"{name}.weight"], found[f"{name}.bias"] = layer.weight, layer.bias
    pairs = ((name, meant, found[name]) for name, meant in meant_tensors(reference))
    check = compare_weights(pairs, must_be_exact)
    if check.failures and not ours:
        return not_compared("another tool wrote it, and its weights are others")
    return check


def meant_tensors(weights: WeightsFile) -> Iterator[tuple[str, Meant]]:
    """Every tensor of the deploy form of a whole network, under its official name."""
    network = weights.network
    blocks = _by_official_path(weights, network)
    for key in skeleton(network.spec, "deploy").state_dict():
        path, _, leaf = key.rpartition(".")
        block = blocks.get(path)
        if block is None:
            yield key, Meant(network.state[key])
        elif leaf == "weight":  # and its bias with it, which comes next
            weight, bias = folded(weights.checkpoint.state, block, network.spec.eps)
            yield key, weight
            yield f"{path}.bias", bias


def _by_official_path(weights: WeightsFile, network: Network) -> dict[str, TrainBlock]:
    keys = {block.fused_keys[0]: block for block in weights.blocks}
    return {network.layout.our_key(key).removesuffix(".weight"): b for key, b in keys.items()}


def _folded_pairs(
    state: State, blocks: list[TrainBlock], eps: float | None, fused: Mapping[str, Tensor]
) -> Pairs:
    for block in blocks:
        meant = folded(state, block, block.eps(eps))
        for key, one in zip(block.fused_keys, meant, strict=True):
            yield key, one, fused.get(key)


def _names(spec: ArchSpec) -> list[str]:
    """The layers of the deploy form in the order in which they run."""
    network = skeleton(spec, "deploy")
    return [*_block_layers(network), "linear"]


def _block_layers(network: RepVGG) -> Iterator[str]:
    for name, block in network.chain:
        yield f"{name}.rbr_reparam"
        if block.squeeze_excite is not None:
            yield from (f"{name}.{block.se_name}.{layer}" for layer in ("down", "up"))


def _other_layers(spec: ArchSpec, layers: list[OnnxLayer], named: bool) -> str:
    """What of a model's layers is not the network's; empty where all are. ``named``: they bear
    the names that export gives them."""
    names, known = _names(spec), torch_layers(skeleton(spec, "deploy"))
    if len(layers) != len(names):
        return f"it has {len(layers)} convolutions and linear layers, and the network {len(names)}"
    for name, layer in zip(names, layers, strict=True):
        if named and layer_key(layer.name) != name:
            return f"its layer {layer.name} is where {name} should be"
        if (layer.kind, layer.geometry) != known[name]:
            return f"its layer {layer.name} has other attributes than {name}"
        if layer.weight is None:
            return f"the weight of its layer {layer.name} is not constant"
    return ""
