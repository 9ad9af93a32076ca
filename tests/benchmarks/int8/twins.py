"""The rescaled twin of a RepVGG: another checkpoint of the same function.

Channel c of each block's output is multiplied by f_c = exp(N(0, sigma)), and whatever reads it
divides by f_c again. ReLU, the sigmoid gate of squeeze-excitation and average pooling let a
positive factor pass, so the logits stay the same up to float rounding. For a quantizer with one
scale a tensor it is another matter: a tensor's channels now differ by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from repvgg_deploy.models.spec import ArchSpec, BlockSpec

State = Mapping[str, Tensor]


def draw_factors(spec: ArchSpec, sigma: float, seed: int) -> list[Tensor]:
    """f of each block's output channels in execution order, float64."""
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(np.exp(rng.normal(0.0, sigma, block.out_channels)))
        for block in spec.blocks
    ]


def rescaled(state: State, spec: ArchSpec, factors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The twin's state dict: computed in float64, stored in each tensor's own type.

    ``state`` is a whole network in training form under the official names, without the auxiliary
    heads that only training uses.
    """
    twin = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    before = torch.ones(spec.in_channels, dtype=torch.float64)  # the images stay as they are
    for block, after in zip(spec.blocks, factors, strict=True):
        _divide_input(twin, block, before)
        _multiply_output(twin, block, after)
        before = after
    twin["linear.weight"] = twin["linear.weight"] / before
    return {key: tensor.to(state[key].dtype) for key, tensor in twin.items()}


def _divide_input(twin: dict[str, Tensor], block: BlockSpec, factors: Tensor) -> None:
    """Make the block read x * factors as it read x."""
    in_group = block.in_channels // block.groups
    rows_in_group = block.out_channels // block.groups
    divisor = factors.view(block.groups, in_group).repeat_interleave(rows_in_group, dim=0)
    for branch in ("rbr_dense", "rbr_1x1"):
        key = f"{block.name}.{branch}.conv.weight"
        twin[key] = twin[key] / divisor[:, :, None, None]
    if block.has_identity:
        # gamma * (x - mean) / sqrt(var + eps): with var as it is, eps weighs what it did.
        norm = f"{block.name}.rbr_identity"
        twin[f"{norm}.weight"] = twin[f"{norm}.weight"] / factors
        twin[f"{norm}.running_mean"] = twin[f"{norm}.running_mean"] * factors


def _multiply_output(twin: dict[str, Tensor], block: BlockSpec, factors: Tensor) -> None:
    """Multiply the block's output, which is the sum of its batch norms, by ``factors``."""
    norms = ["rbr_dense.bn", "rbr_1x1.bn", *["rbr_identity"] * block.has_identity]
    for norm in norms:
        for leaf in ("weight", "bias"):
            key = f"{block.name}.{norm}.{leaf}"
            twin[key] = twin[key] * factors
    for se in ("se", "post_se"):  # its gate is to be the same: it reads the channels it scales
        key = f"{block.name}.{se}.down.weight"
        if key in twin:
            twin[key] = twin[key] / factors[None, :, None, None]
