"""The faults that every proof has to catch, as changes of one fused layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

#: Weight and bias of a fused layer, and the type that they will be stored in -> the faulty pair.
Fault = Callable[[Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor]]

#: A channel a hundred times quieter than the others, where averages hide what is wrong.
QUIET = 1


def hostile(network: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics that training leaves in real networks: one channel quieter by 100 times, one
    nearly dead (gamma near 0), large means, small variances."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(noise(module.running_mean) * 3)
                module.running_var.copy_(noise(module.running_var).square() + 0.3)
                module.weight.copy_(noise(module.weight) * 0.3 + 1)
                module.bias.copy_(noise(module.bias))
                module.running_mean[0] = 20
                module.running_var[2] = 0.02
                module.weight[QUIET] *= 0.01
                module.running_mean[QUIET], module.bias[QUIET] = 0.01, 0.03
                module.weight[3] = 1e-4
    return network.eval()


def shifted(weight: Tensor, bias: Tensor, _: torch.dtype) -> tuple[Tensor, Tensor]:
    return weight.roll(1, -1), bias


def swapped_channels(weight: Tensor, bias: Tensor, _: torch.dtype) -> tuple[Tensor, Tensor]:
    order = torch.arange(len(weight))
    order[[0, 2]] = order[[2, 0]]
    return weight[order], bias[order]


def one_weight(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, share: float = 0.001
) -> tuple[Tensor, Tensor]:
    """In the quiet channel: the largest one that becomes another number in ``dtype``."""
    changed = weight.clone()
    row = changed[QUIET].flatten()
    differs = (row * (1 + share)).to(dtype) != row.to(dtype)
    assert differs.any()
    at = int((row.abs() * differs).argmax())
    row[at] *= 1 + share
    changed[QUIET] = row.reshape(changed[QUIET].shape)
    return changed, bias


def one_bias(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, share: float = 0.01
) -> tuple[Tensor, Tensor]:
    """In the quiet channel."""
    changed = bias.clone()
    changed[QUIET] *= 1 + share
    assert changed[QUIET].to(dtype) != bias[QUIET].to(dtype)
    return weight, changed


def zeroed_channel(weight: Tensor, bias: Tensor, _: torch.dtype) -> tuple[Tensor, Tensor]:
    keep = torch.ones(len(weight))
    keep[QUIET] = 0
    return weight * keep.reshape(-1, 1, 1, 1), bias * keep


#: Faults of a fused layer.
FAULTS: Mapping[str, Fault] = {
    "kernel shifted": shifted,
    "channels swapped": swapped_channels,
    "one weight off by 0.1 %": one_weight,
    "one bias off by 1 %": one_bias,
    "one channel zeroed": zeroed_channel,
}

#: Of a module in half precision nobody knows whether it was cast before it was fused or after; that
#: changes weights by several roundoffs, so a fault has to be larger to be one.
SEEN_IN_HALF = {torch.float16: 0.02, torch.bfloat16: 0.15}


def module_faults(dtype: torch.dtype) -> Mapping[str, Fault]:
    """FAULTS as large as they can be told in a module of ``dtype``."""
    share = SEEN_IN_HALF.get(dtype)
    if share is None:
        return FAULTS
    changed = (partial(one_weight, share=share), partial(one_bias, share=share))
    smallest = dict(
        zip((f"one {what} off by {share:.0%}" for what in ("weight", "bias")), changed, strict=True)
    )
    return {k: f for k, f in FAULTS.items() if f not in (one_weight, one_bias)} | smallest
