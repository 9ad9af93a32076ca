"""The state-dict front end: training-form tensors in, deploy-form tensors out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import UserError
from .blocks import BN_LEAVES, State, Step, TrainBlock, TrainBranch, kernel
from .linear import LinearConv, NotOneConv

#: Output channels folded at once: they are independent, so a block's float64 working copies need
#: never be larger than this many rows of it. Rows of small kernels are taken more at a time.
ROWS_AT_ONCE = 64
_ELEMENTS_AT_ONCE = 2**16


def fold_block(
    state: State,
    block: TrainBlock,
    eps: float,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fold one block, computed in float64: kernel [out, in/groups, kh, kw] and bias [out].

    They have ``dtype``, by default that of the block's kernel but float32 at least, and the shapes
    that the block's own tensors have. The kernel is written to ``out`` where given, which may be
    the block's own largest kernel.

    Raises:
        UserError: the branches are no single convolution; does not name the file.
    """
    own = None if block.kernel_key is None else state[block.kernel_key]
    dtype = dtype or torch.promote_types(torch.float32, _first(state, block).dtype)
    shape = (block.out_channels, block.in_per_group, *block.kernel_size)
    weight = torch.empty(shape if own is None else own.shape, dtype=dtype) if out is None else out
    bias = torch.empty(block.out_channels, dtype=dtype)
    flat = weight.view(shape)
    per_row = flat[0].numel()
    rows_at_once = max(ROWS_AT_ONCE, _ELEMENTS_AT_ONCE // per_row)
    for start in range(0, block.out_channels, rows_at_once):
        rows = slice(start, min(start + rows_at_once, block.out_channels))
        try:
            conv = _fold_rows(state, block, eps, rows)
        except NotOneConv as reason:
            raise UserError(f"block {block.path}: cannot be folded: {reason}.") from reason
        flat[rows], bias[rows] = conv.kernel.to(dtype), conv.bias.to(dtype)
    return weight, bias.view(_bias_shape(state, block))


def fuse_in_place(
    state: dict[str, Tensor], blocks: Iterable[TrainBlock], eps: float | None = None,
    *, overwrite: bool = False,
) -> None:  # fmt: skip
    """Replace the branches of every block in ``state`` by its fused convolution.

    ``eps`` None: each family's own. Branches leave as the convolution comes; pass ``dict(state)``
    to keep the original. With ``overwrite`` a fused kernel takes the memory of the block's largest
    kernel if that goes, so whoever else holds those tensors sees them change.
    """
    unshared = _unshared(state) if overwrite else set()
    for block in blocks:
        key = None if block.family.keeps_branches else block.kernel_key
        reusable = key is not None and key in unshared and state[key].dtype == torch.float32
        out = state[key] if key is not None and reusable else None
        weight, bias = fold_block(state, block, block.eps(eps), out=out)
        for name in () if block.family.keeps_branches else block.keys(state):
            del state[name]
        weight_key, bias_key = block.fused_keys
        state[weight_key], state[bias_key] = weight, bias


def _first(state: State, block: TrainBlock) -> Tensor:
    return state[block.kernel_key or block.keys(state)[0]]


def _bias_shape(state: State, block: TrainBlock) -> tuple[int, ...]:
    """MegEngine's biases are [1, C, 1, 1], like its batch norms."""
    norms = (step for step in block.steps() if step.kind == "norm")
    step = next(norms, None)
    shape = (-1,) if step is None else tuple(state[f"{step.name}.bias"].shape)
    return shape if len(shape) == 4 else (-1,)


def _unshared(state: State) -> set[str]:
    """Keys of the tensors whose memory is all theirs: a checkpoint may hold tied weights."""
    holders = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    return {
        key
        for key, tensor in state.items()
        if holders[tensor.untyped_storage().data_ptr()] == 1
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.nbytes
    }


def _fold_rows(state: State, block: TrainBlock, eps: float, rows: slice) -> LinearConv:
    """The sum of the branches for some rows, which are an ungrouped convolution by themselves."""
    first, *others = (_branch_rows(state, block, b, eps, rows) for b in block.branches)
    total = sum(others, first)
    if block.outer_norm is not None:
        total = total.then(_per_channel(state, block.outer_norm, eps, rows))
    return total


def _branch_rows(
    state: State, block: TrainBlock, branch: TrainBranch, eps: float, rows: slice
) -> LinearConv:
    every = slice(None)
    before: LinearConv | None = None  # per-channel operations in front of the kernel
    conv = None if branch.kernel_key else _identity_rows(block, branch, rows)
    for step in branch.steps:
        if step.mixes:
            conv = _kernel_rows(state, step, rows)
            conv = conv if before is None else before.then(conv)
        elif conv is None:
            after = _per_channel(state, step, eps, every)
            before = after if before is None else before.then(after)
        else:
            conv = conv.then(_per_channel(state, step, eps, rows))
    assert conv is not None  # a branch without a kernel starts as the identity
    factor = branch.branch.factor
    if factor == 1:
        return conv
    scale = torch.full((conv.out_channels,), factor, dtype=torch.float64)
    return conv.then(LinearConv.scale(scale, torch.zeros_like(scale)))


def _kernel_rows(state: State, step: Step, rows: slice) -> LinearConv:
    weight = kernel(state, f"{step.name}.weight")[rows]
    bias = state.get(f"{step.name}.bias")
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return LinearConv.conv(weight, None if bias is None else bias.flatten()[rows], padding=padding)


def _per_channel(state: State, step: Step, eps: float, rows: slice) -> LinearConv:
    if step.kind == "scale":
        factor = state[step.name].flatten()
        factor = factor[rows] if len(factor) > 1 else factor.expand(rows.stop - rows.start)
        return LinearConv.scale(factor, torch.zeros_like(factor))
    gamma, beta, mean, var = (state[f"{step.name}.{leaf}"].flatten()[rows] for leaf in BN_LEAVES)
    return LinearConv.batch_norm(gamma, beta, mean, var, eps)


def _identity_rows(block: TrainBlock, branch: TrainBranch, rows: slice) -> LinearConv:
    """Rows of the identity, K[i, i mod (C/g)] = 1, or of an average pool."""
    size = branch.branch.average_pool or 1
    count = rows.stop - rows.start
    picked = torch.zeros(count, block.in_per_group, size, size, dtype=torch.float64)
    column = torch.arange(rows.start, rows.stop) % block.in_per_group
    picked[torch.arange(count), column] = 1 / size**2
    return LinearConv.conv(picked, padding=size // 2)
