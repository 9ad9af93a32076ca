"""The two weight files of a lineage, and the range of every kernel before and after fusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...artifacts import FusedArtifact
from ...errors import UserError
from ...reparam.blocks import TrainBlock, kernel
from ..verify import average_where_held
from ..weights import Reading, WeightsFile, read_weights
from .files import Found
from .parts import BlockWeights, WeightRange


@dataclass(frozen=True)
class Pair:
    """Weights before and after fusion. ``train`` None: there is no training form here, and
    ``without`` says why; ``fused`` None: that file cannot be trusted or read, likewise."""

    train: WeightsFile | None
    fused: WeightsFile | None
    without: str


def read_pair(files: list[Found]) -> Pair:
    """What fuse read and what it wrote; no file that has changed since."""
    fused = next(found for found in files if found.entry.kind == "fused weights")
    artifact = fused.artifact
    if not isinstance(artifact, FusedArtifact):
        return Pair(None, None, f"{fused.path}: {fused.entry.detail}")
    after = read_weights(fused.path)
    if artifact.source_form != "train":
        return Pair(None, after, "the checkpoint was fused already")
    if fused.origin is None:
        why = fused.entry.detail or f"{artifact.source.path} is not here any more"
        return Pair(None, after, why)
    try:
        reading = average_where_held(Reading.of(artifact))
        return Pair(read_weights(fused.origin, reading), after, "")
    except UserError as error:
        return Pair(None, after, str(error).removesuffix("."))


def weight_ranges(pair: Pair) -> list[BlockWeights]:
    """Block by block in the order of the file."""
    if pair.fused is None:
        return []
    state = pair.fused.checkpoint.state
    if pair.train is None:
        keys = [key for key in state if key.endswith(".weight") and state[key].ndim >= 4]
        return [
            BlockWeights(key.removesuffix(".weight"), None, _range([kernel(state, key)]))
            for key in keys
        ]
    return [
        BlockWeights(
            block.path,
            _before(pair.train.checkpoint.state, block),
            _range([kernel(state, _fused_key(pair, block))]),
        )
        for block in pair.train.blocks
    ]


def _fused_key(pair: Pair, block: TrainBlock) -> str:
    """Under the code base's own name, or the official one (fuse --format ours)."""
    key, _ = block.fused_keys
    assert pair.train is not None and pair.fused is not None  # weight_ranges
    if key not in pair.fused.checkpoint.state and pair.train.whole is not None:
        return pair.train.whole.layout.our_key(key)
    return key


def _before(state: Mapping[str, Tensor], block: TrainBlock) -> WeightRange | None:
    """Of the kernels that training learnt; None where a block has none (batch norms alone)."""
    names = [f"{step.name}.weight" for step in block.steps() if step.mixes]
    return _range([kernel(state, name) for name in names]) if names else None


def _range(kernels: list[Tensor]) -> WeightRange:
    """Over all ``kernels`` [out, in/groups, kh, kw]; the spread is that of the largest kernel."""
    largest = max(kernels, key=Tensor.numel).float()
    channels = largest.abs().flatten(1).amax(1)
    median = float(channels.median())
    return WeightRange(
        minimum=min(float(one.min()) for one in kernels),
        maximum=max(float(one.max()) for one in kernels),
        spread=float(torch.max(channels)) / median if median else None,
    )
