"""The state-dict front end: training-form tensors in, deploy-form tensors out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import BN_LEAVES, State, TrainBlock
from .linear import LinearConv

#: Output channels folded at once. They are independent, so a block's float64 working copies
#: need never be larger than this many rows of it.
ROWS_AT_ONCE = 64


def fold_block(
    state: State,
    block: TrainBlock,
    eps: float,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fold one block: kernel [out, in/groups, k, k] and bias [out], computed in float64.

    The kernel is written to ``out`` where given, which may be the block's own k x k kernel.
    """
    weight = torch.empty_like(state[block.kernel_key], dtype=dtype) if out is None else out
    bias = torch.empty(block.out_channels, dtype=dtype)
    for rows, group_start in _row_slices(block):
        conv = _fold_rows(state, block, eps, rows, group_start)
        weight[rows], bias[rows] = conv.kernel.to(dtype), conv.bias.to(dtype)
    return weight, bias


def fuse_in_place(
    state: dict[str, Tensor], blocks: list[TrainBlock], eps: float, *, overwrite: bool = False
) -> None:
    """Replace the branches of every block in ``state`` by its fused convolution, float32.

    Branches leave as the convolution comes; pass ``dict(state)`` to keep the original. With
    ``overwrite`` a fused kernel takes the memory of the block's k x k kernel, so whoever else
    holds those tensors sees them change.
    """
    unshared = _unshared(state) if overwrite else set()
    for block in blocks:
        kernel = state[block.kernel_key]
        reusable = block.kernel_key in unshared and kernel.dtype == torch.float32
        weight, bias = fold_block(state, block, eps, out=kernel if reusable else None)
        for key in block.keys(state):
            del state[key]
        state[f"{block.path}.{block.family.fused}.weight"] = weight
        state[f"{block.path}.{block.family.fused}.bias"] = bias


def _unshared(state: State) -> set[str]:
    """Keys of the tensors whose memory is all theirs: a checkpoint may hold tied weights."""
    holders = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    return {
        key
        for key, tensor in state.items()
        if holders[tensor.untyped_storage().data_ptr()] == 1
        and tensor.untyped_storage().nbytes() == tensor.nbytes
    }


def _row_slices(block: TrainBlock) -> Iterator[tuple[slice, int]]:
    """Slices of output channels, with the first channel of their group.

    Only the identity depends on the group, so without one the whole block counts as one group.
    """
    per_group = block.in_per_group if block.has_identity else block.out_channels
    for group_start in range(0, block.out_channels, per_group):
        stop = group_start + per_group
        for start in range(group_start, stop, ROWS_AT_ONCE):
            yield slice(start, min(start + ROWS_AT_ONCE, stop)), group_start


def _fold_rows(
    state: State, block: TrainBlock, eps: float, rows: slice, group_start: int
) -> LinearConv:
    """The sum of the branches for some rows, which within one group is an ungrouped convolution."""

    def norm(name: str) -> LinearConv:
        gamma, beta, mean, var = (state[f"{block.path}.{name}.{leaf}"][rows] for leaf in BN_LEAVES)
        return LinearConv.batch_norm(gamma, beta, mean, var, eps)

    def branch(conv: str, bn: str) -> LinearConv:
        weight = state[f"{block.path}.{conv}.weight"][rows]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return LinearConv.conv(weight, padding=padding).then(norm(bn))

    first, *others = (branch(conv, bn) for conv, bn in block.family.conv_bn)
    total = sum(others, first)
    if block.has_identity:
        output = torch.arange(rows.stop - rows.start)
        picked = torch.zeros(len(output), block.in_per_group, 1, 1, dtype=torch.float64)
        picked[output, output + rows.start - group_start] = 1
        total = total + LinearConv.conv(picked).then(norm(block.family.identity))
    return total
