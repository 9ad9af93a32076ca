"""What a checkpoint holds: blocks by kind and one by one, and what only training needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from ..models.zoo import describe
from ..reparam.blocks import TrainBlock, below
from .weights import WeightsFile

#: What batch norm keeps beside its parameters.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class BlockCount:
    """Blocks of one kind. ``with_se`` of them have a squeeze-excitation.

    ``taken_to_widen`` might as well be grouped blocks with an identity: shapes do not tell. Nor do
    they tell whether those ``taken_at_stride_1``, and so with an identity, have another stride.
    """

    family: str
    block: str
    count: int
    eps: float
    with_se: int
    taken_to_widen: int
    taken_at_stride_1: int
    note: str


@dataclass(frozen=True)
class BlockEntry:
    """One block; ``kernel`` is the shape of the fused kernel, [out, in/groups, kh, kw]."""

    path: str
    family: str
    block: str
    branches: int
    kernel: tuple[int, int, int, int]
    eps: float
    squeeze_excitation: bool
    parameters: int
    parameters_after: int


def list_blocks(weights: WeightsFile) -> list[BlockEntry]:
    """The blocks of a file in its order."""
    return [_entry(weights, block) for block in weights.blocks]


def count_blocks(weights: WeightsFile) -> list[BlockCount]:
    """The blocks of a file by kind."""
    kinds = {(block.family.family, block.family.block): block for block in weights.blocks}
    entries = list_blocks(weights)
    counts = Counter((entry.family, entry.block) for entry in entries)
    se = Counter((entry.family, entry.block) for entry in entries if entry.squeeze_excitation)
    widening = Counter(
        (b.family.family, b.family.block) for b in weights.blocks if b.taken_to_widen
    )
    still = Counter(
        (b.family.family, b.family.block)
        for b in weights.blocks
        if weights.whole is None and b.taken_at_stride_1
    )
    return [
        BlockCount(
            *kind,
            count=counts[kind],
            eps=block.eps(weights.reading.eps),
            with_se=se[kind],
            taken_to_widen=widening[kind],
            taken_at_stride_1=still[kind],
            note=block.family.note,
        )
        for kind, block in kinds.items()
    ]


def architecture(weights: WeightsFile, kinds: Iterable[BlockCount]) -> str:
    """The network's name or layout, or what blocks there are; ``kinds`` as of count_blocks."""
    if weights.whole is not None:
        return describe(weights.whole.spec)
    counted = ", ".join(f"{b.count} {b.block} ({b.family})" for b in kinds)
    if counted:
        return counted
    return "blocks that are fused already" if weights.holds_fused else "no known blocks"


def training_only(weights: WeightsFile) -> list[str]:
    """Keys that only training needs, auxiliary heads for example; fuse leaves them out."""
    patterns = {b.family.training_only for b in weights.blocks if b.family.training_only}
    state = weights.checkpoint.state
    return [key for key in state if any(re.search(pattern, key) for pattern in patterns)]


def parameters(weights: WeightsFile, keys: Iterable[str]) -> int:
    """Numbers that training learns, so without batch norm's statistics."""
    state = weights.checkpoint.state
    return sum(state[key].numel() for key in keys if not key.endswith(_STATISTICS))


def _entry(weights: WeightsFile, block: TrainBlock) -> BlockEntry:
    state = weights.checkpoint.state
    tails = tuple(below(block.path, f"{tail}.") for tail in block.family.tail)
    kernel = (block.out_channels, block.in_per_group, *block.kernel_size)
    before = parameters(weights, block.keys(state))
    return BlockEntry(
        path=block.path,
        family=block.family.family,
        block=block.family.block,
        branches=len(block.branches),
        kernel=kernel,
        eps=block.eps(weights.reading.eps),
        squeeze_excitation=bool(tails)  # an activation's weights have one dimension
        and any(key.startswith(tails) and state[key].ndim > 1 for key in state),
        parameters=before,
        parameters_after=prod(kernel)
        + block.out_channels
        + (before if block.family.keeps_branches else 0),
    )
