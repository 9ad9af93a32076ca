"""Weight decay of the equivalent kernel in place of the branches' own.

From RepVGG's repository (``get_custom_L2``), which says that it helps accuracy and quantization:
what is made small is the kernel that gets deployed, divided by how much batch norm scales it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.network import RepVGG, RepVGGBlock
from ..reparam.linear import LinearConv

#: Stands for a batch norm's factor of 0: there E^2 / T^2 is 0/0, whose limit this gives.
_SMALLEST_FACTOR = 1e-30


def custom_l2(network: RepVGG) -> Tensor:
    """Sum over all blocks of E^2 / T^2, a float32 scalar that gradients flow through.

    E is the equivalent kernel of a block's 3x3 and 1x1 in training form, the identity left out;
    T^2 at each tap is the sum of the squared factors of the branches that reach it. Those factors,
    gamma / sigma of a branch's batch norm, are held constant; a batch norm after the sum scales E
    and T alike, so it drops out. ``weight_decay / 2`` times this is added to the loss, and the
    :func:`covered_kernels` get no other decay.
    """
    return torch.stack([_of_block(block) for _, block in network.chain]).sum().float()


def covered_kernels(network: RepVGG) -> list[nn.Parameter]:
    """The kernels that :func:`custom_l2` is about: the 3x3 and the 1x1 of every block."""
    convs = [conv for _, block in network.chain for conv, _ in _branches(block)]
    return [parameter for conv in convs for parameter in conv.parameters()]


def _of_block(block: RepVGGBlock) -> Tensor:
    kernels, squares = [], []
    for conv, norm in _branches(block):
        factor = _factor(conv, norm)
        zeros = torch.zeros_like(factor)
        margin = conv.kernel_size[0] // 2
        branch, reached = (
            LinearConv.conv(weight, padding=margin, groups=conv.groups)
            for weight in (conv.weight, torch.ones_like(conv.weight))
        )
        kernels.append(branch.then(LinearConv.scale(factor, zeros)))
        squares.append(reached.then(LinearConv.scale(factor**2, zeros)))
    equivalent, square = (sum(rest, first) for first, *rest in (kernels, squares))
    return (equivalent.kernel**2 / square.kernel).sum()


def _branches(block: RepVGGBlock) -> list[tuple[nn.Conv2d, _BatchNorm | None]]:
    """The 3x3 and the 1x1, each with its batch norm where it has one."""
    found: list[tuple[nn.Conv2d, _BatchNorm | None]] = []
    for branch in (block.rbr_dense, block.rbr_1x1):
        if isinstance(branch, nn.Conv2d):
            found.append((branch, None))
            continue
        conv, norm = branch.children()
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm)
        found.append((conv, norm))
    return found


def _factor(conv: nn.Conv2d, norm: _BatchNorm | None) -> Tensor:
    """What each output channel of a convolution is multiplied with; float64, no gradient."""
    if norm is None:
        return torch.ones(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    assert norm.running_var is not None
    factor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return torch.where(factor.abs() < _SMALLEST_FACTOR, _SMALLEST_FACTOR, factor)
