"""What a block computes, by torch's own operations in float64; none of the project's algebra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from repvgg_deploy.reparam.family import BlockFamily

from .state_blocks import kind_of, mixes, under

#: Of the size of what is added up.
EXACT = 1e-11


def as_4d(weight: Tensor) -> Tensor:
    """A kernel as [out, in/groups, kh, kw], whatever shape it is stored in."""
    weight = weight.double()
    if weight.ndim == 2:
        return weight[:, :, None, None]
    return weight.reshape(-1, *weight.shape[-3:])


def same(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Convolution with zeros around the image."""
    weight = as_4d(weight)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    offset = None if bias is None else bias.double().flatten()
    return F.conv2d(x, weight, offset, padding=padding, groups=groups)


def normed(
    state: Mapping[str, Tensor], name: str, x: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm by its formula, and its factor and offset, [1, C, 1, 1]."""
    gamma, beta, mean, var = (
        state[f"{name}.{leaf}"].double().reshape(1, -1, 1, 1)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / torch.sqrt(var + eps)
    return (x - mean) * factor + beta, factor, mean * factor - beta


def present(state: Mapping[str, Tensor], path: str, steps: tuple[str, ...]) -> bool:
    """Whether a block has a branch: a scale may be shared, so it tells nothing beside others."""
    own = [step for step in steps if kind_of(step) != "scale"] or steps
    names = [under(path, step) for step in own]
    return any(key == name or key.startswith(f"{name}.") for name in names for key in state)


def outputs(
    state: Mapping[str, Tensor],
    path: str,
    family: BlockFamily,
    x: Tensor,
    *,
    groups: int,
    passes: bool,
    eps: float,
) -> Iterator[Tensor]:
    """What each branch adds; ``passes``: the block has its branches without tensors."""
    for branch in family.branches:
        if not branch.steps:
            size = branch.average_pool
            if passes:
                y = x if size is None else F.avg_pool2d(x, size, 1, size // 2)
                yield y * branch.factor
            continue
        numbered = any("{n}" in step for step in branch.steps)
        for number in range(9 if numbered else 1):
            steps = tuple(step.replace("{n}", str(number)) for step in branch.steps)
            if not present(state, path, steps):
                break
            y = x
            for step in steps:
                name = under(path, step)
                if kind_of(step) == "scale":
                    y = y * state[name].double().reshape(1, -1, 1, 1)
                elif kind_of(step) == "norm":
                    y = normed(state, name, y, eps)[0]
                else:
                    y = same(y, state[f"{name}.weight"], state.get(f"{name}.bias"), groups)
            yield y * branch.factor


def truth(
    state: Mapping[str, Tensor],
    path: str,
    family: BlockFamily,
    x: Tensor,
    *,
    groups: int,
    passes: bool,
    eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """What the fused convolution has to give, and per channel the size of what adds up to it."""
    eps = family.eps if eps is None else eps
    branches = torch.stack(
        list(outputs(state, path, family, x, groups=groups, passes=passes, eps=eps))
    )
    total, size = branches.sum(0), branches.abs().amax((0, 1, 3, 4))
    if family.outer_norm and not family.keeps_outer_norm:
        name = under(path, family.outer_norm)
        total, factor, offset = normed(state, name, total, eps)
        size = size * factor.abs().flatten() + offset.abs().flatten()
    return total, size


def image(channels: int, weight: Tensor, seed: int = 0) -> Tensor:
    """Noise, somewhat larger than a kernel, so that it has borders and an inside."""
    height, width = as_4d(weight).shape[2:]
    generator = torch.Generator().manual_seed(seed)
    shape = (2, channels, height + 2, width + 3)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def passes_on(family: BlockFamily, state: Mapping[str, Tensor], path: str) -> bool:
    """Whether a block has a branch with tensors but without a kernel."""
    return any(
        b.steps and not mixes(b.steps) and present(state, path, b.steps) for b in family.branches
    )
