"""The proof for blocks whose network is not known: each against its own branches.

The branches are run as torch runs them, one operation after the other, so nothing is shared with
the algebra that folds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..reparam.blocks import BN_LEAVES, State, Step, TrainBlock, TrainBranch, kernel
from ..reparam.state_dict import fold_block
from ..runners.torch_network import exact_math
from .compare import RATIO_LIMIT, compare
from .proof import Proof, relative_error
from .samples import probe_inputs

#: Samples a block: noise and the extremes of probe_inputs.
SAMPLES = 6


def prove_blocks(
    state: State,
    fused: Mapping[str, Tensor],
    blocks: Sequence[TrainBlock],
    device: torch.device,
    eps: float | None = None,
    limit: float = RATIO_LIMIT,
) -> Proof:
    """Hold every block's fused tensors in ``fused`` against its branches in ``state``.

    Each block sees float32 inputs that its kernel just fits into with room to move. ``eps`` None:
    each family's own.
    """
    parts, algebra = [], {}
    with exact_math():
        for block in blocks:
            x = _inputs(block).to(device)
            branches = _branches(state, block, x.double(), block.eps(eps))
            truth = branches.sum(0)
            own = _branches(state, block, x, block.eps(eps)).sum(0)
            weight, bias = (fused[key] for key in block.fused_keys)
            new = _convolve(block, x, weight, bias)
            true, reference, candidate = (tensor.cpu().numpy() for tensor in (truth, own, new))
            name = block.path or block.family.block
            parts.append(compare(name, true, reference, candidate, limit=limit))
            folded = fold_block(state, block, block.eps(eps), torch.float64)
            algebra[name] = relative_error(_convolve(block, x.double(), *folded), branches)
    return Proof(tuple(parts), None, algebra, str(device))


def _inputs(block: TrainBlock) -> Tensor:
    height, width = (size + 2 for size in block.kernel_size)
    channels = block.out_channels if block.has_identity else block.in_per_group
    return torch.from_numpy(probe_inputs(channels, height, width, SAMPLES))


def _groups(block: TrainBlock) -> int:
    """Without an identity every row reads one group's channels, so one group stands for all."""
    return block.out_channels // block.in_per_group if block.has_identity else 1


def _convolve(block: TrainBlock, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    flat = weight.reshape(block.out_channels, block.in_per_group, *block.kernel_size).to(x)
    return F.conv2d(x, flat, bias.flatten().to(x), padding=_same(flat), groups=_groups(block))


def _same(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def _branches(state: State, block: TrainBlock, x: Tensor, eps: float) -> Tensor:
    """What adds up to the block's linear part, [branches, N, out, H, W], in the dtype of ``x``."""
    outputs = torch.stack([_branch(state, block, branch, x, eps) for branch in block.branches])
    if block.outer_norm is None:
        return outputs
    return _apply(state, block, block.outer_norm, outputs.sum(0), eps)[None]


def _branch(state: State, block: TrainBlock, branch: TrainBranch, x: Tensor, eps: float) -> Tensor:
    if size := branch.branch.average_pool:
        x = F.avg_pool2d(x, size, 1, size // 2)
    for step in branch.steps:
        x = _apply(state, block, step, x, eps)
    return x * branch.branch.factor


def _apply(state: State, block: TrainBlock, step: Step, x: Tensor, eps: float) -> Tensor:
    if step.kind == "scale":
        return x * state[step.name].to(x).reshape(1, -1, 1, 1)
    if step.kind == "norm":
        gamma, beta, mean, var = (state[f"{step.name}.{n}"].flatten().to(x) for n in BN_LEAVES)
        return F.batch_norm(x, mean, var, gamma, beta, eps=eps)
    weight = kernel(state, f"{step.name}.weight").to(x)
    bias = state.get(f"{step.name}.bias")
    given = None if bias is None else bias.flatten().to(x)
    return F.conv2d(x, weight, given, padding=_same(weight), groups=_groups(block))
