"""Folding a block of modules: what tensors cannot say, the modules do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from ..blocks import Step
from ..family import Branch
from ..geometry import Pair
from ..linear import LinearConv, NotOneConv
from .candidate import Candidate


@dataclass(frozen=True)
class Folded:
    """One convolution in float64; ``size`` bounds what went into each output channel."""

    conv: LinearConv
    size: Tensor
    is_linear: bool


def fold_candidate(candidate: Candidate) -> Folded:
    """Fold the branches and the batch norm after them.

    Raises:
        NotOneConv: they are no single convolution, or their tensors cannot be used.
    """
    stepped = [_branch(candidate, number) for number in range(len(candidate.block.branches))]
    convs = [conv for conv in stepped if conv is not None]
    like = next((c for c in convs if not c.geometry.is_pointwise), convs[0])
    for branch in candidate.family.branches:
        if not branch.steps:
            plain = _stepless(candidate.module, branch, like)
            convs += [] if plain is None else [_scaled(plain, branch.factor)]
    total = sum(convs[1:], convs[0])
    size = torch.stack([c.kernel.abs().flatten(1).sum(1) + c.bias.abs() for c in convs]).sum(0)
    if outer := candidate.family.outer_norm:
        after = _norm(candidate.module.get_submodule(outer), outer)
        total = total.then(after)
        size = size * after.kernel.flatten().abs() + after.bias.abs()
    if not (total.kernel.isfinite().all() and total.bias.isfinite().all()):
        raise NotOneConv("its weights hold NaN or infinity")
    mixing = kernels(candidate)
    return Folded(total, size, bool(mixing) and all(isinstance(k, nn.Linear) for k in mixing))


def kernels(candidate: Candidate) -> list[nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of its branches."""
    steps = candidate.steps.values()
    return [step for step in steps if isinstance(step, (nn.Conv2d, nn.Linear))]


def exact(tensor: Tensor) -> Tensor:
    """In float64, where the tensor is or on the CPU if its device has no float64."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _branch(candidate: Candidate, number: int) -> LinearConv | None:
    branch = candidate.block.branches[number]
    conv: LinearConv | None = None
    for place, step in enumerate(branch.steps):
        channels = _entering(candidate, branch.steps[place:]) if conv is None else conv.out_channels
        operation = _operation(candidate.steps[step.name], step.name, channels)
        conv = operation if conv is None else conv.then(operation)
    return None if conv is None else _scaled(conv, branch.branch.factor)


def _entering(candidate: Candidate, steps: Sequence[Step]) -> int:
    """The channels that the first of these steps works on."""
    for step in steps:
        layer = candidate.steps[step.name]
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            return layer.in_features
    return candidate.block.out_channels


def _operation(step: nn.Module | Tensor, name: str, channels: int) -> LinearConv:
    """``channels``: those that it works on, all of which a scale of one number multiplies."""
    if isinstance(step, Tensor):
        factor = exact(_real(step, name)).flatten()
        factor = factor.expand(channels) if len(factor) == 1 else factor
        return LinearConv.scale(factor, torch.zeros_like(factor))
    if isinstance(step, nn.Linear):
        bias = None if step.bias is None else exact(step.bias)
        return LinearConv.conv(exact(_real(step.weight, name))[:, :, None, None], bias)
    if isinstance(step, nn.Conv2d):
        return LinearConv.conv(
            exact(_real(step.weight, name)),
            None if step.bias is None else exact(step.bias),
            stride=_two(step.stride),
            padding=_padding(step),
            dilation=_two(step.dilation),
            groups=step.groups,
            padding_mode=step.padding_mode,
        )
    return _norm(step, name)


def _norm(step: nn.Module, name: str) -> LinearConv:
    """Batch norm, or what has its tensors, such as torchvision's frozen one."""
    mean, var = getattr(step, "running_mean", None), getattr(step, "running_var", None)
    eps = getattr(step, "eps", None)
    if isinstance(step, _NormBase) and (mean is None or var is None):
        raise NotOneConv(
            f"{name} has no running statistics, so it norms every batch by its own, in eval too"
        )
    if isinstance(step, _InstanceNorm) or mean is None or var is None or eps is None:
        raise NotOneConv(f"{name} is a {type(step).__name__}, which fuse cannot fold")
    mean, var = exact(_real(mean, name)), exact(var)
    weight, bias = getattr(step, "weight", None), getattr(step, "bias", None)
    gamma = torch.ones_like(mean) if weight is None else exact(weight)
    beta = torch.zeros_like(mean) if bias is None else exact(bias)
    return LinearConv.batch_norm(gamma, beta, mean, var, float(eps))


def _real(tensor: Tensor, name: str) -> Tensor:
    if tensor.is_meta:
        raise NotOneConv(f"{name} is on the meta device, where there are no values")
    return tensor


def _two(value: tuple[int, ...]) -> Pair:
    return value[0], value[1]


def _padding(conv: nn.Conv2d) -> Pair:
    if not isinstance(conv.padding, str):
        return _two(conv.padding)
    sizes = zip(conv.kernel_size, conv.dilation, strict=True)
    total = [d * (k - 1) if conv.padding == "same" else 0 for k, d in sizes]
    if any(t % 2 for t in total):
        raise NotOneConv("padding 'same' of an even kernel pads one side more")
    return total[0] // 2, total[1] // 2


def _stepless(module: nn.Module, branch: Branch, like: LinearConv) -> LinearConv | None:
    """A branch without tensors, or None where the block has none; ``like``: one that it has."""
    channels, size = like.in_channels, branch.average_pool
    conv: LinearConv
    if branch.attribute:
        own = getattr(module, branch.attribute, None)
        if own is None:
            return None
        if isinstance(own, nn.Identity):
            conv = LinearConv.identity(channels, channels)
        elif isinstance(own, nn.AvgPool2d) and not own.divisor_override and not own.ceil_mode:
            conv = LinearConv.average_pool(
                channels, own.kernel_size, stride=own.stride, padding=own.padding,
                count_include_pad=own.count_include_pad,
            )  # fmt: skip
        else:
            raise NotOneConv(
                f"{branch.attribute} is a {type(own).__name__}, which fuse cannot fold"
            )
    elif channels != like.out_channels or like.stride != (1, 1):
        return None
    elif size is None:
        conv = LinearConv.identity(channels, channels)
    else:
        conv = LinearConv.average_pool(channels, size, stride=1, padding=size // 2)
    device = like.kernel.device
    return replace(conv, kernel=conv.kernel.to(device), bias=conv.bias.to(device))


def _scaled(conv: LinearConv, factor: float) -> LinearConv:
    if factor == 1:
        return conv
    scale = torch.full_like(conv.bias, factor)
    return conv.then(LinearConv.scale(scale, torch.zeros_like(scale)))
