"""The straightforward way to fuse, as the official convert script does it: the baseline.

    python -m tests.benchmarks.straightforward RepVGG-B3 ckpt.pth fused.pth

Build the training module, load_state_dict, fuse block by block in float32, torch.save.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from repvgg_deploy.models.network import RepVGG, RepVGGBlock
from repvgg_deploy.models.zoo import ZOO


def scale_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    std = (norm.running_var + norm.eps).sqrt()
    scale = norm.weight / std
    return scale.reshape(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


def switch_to_deploy(block: RepVGGBlock) -> None:
    kernel, bias = 0, 0
    for branch in (block.rbr_dense, block.rbr_1x1):
        scale, shift = scale_shift(branch.bn)
        weight = branch.conv.weight
        if weight.shape[2] == 1:
            weight = nn.functional.pad(weight, [1, 1, 1, 1])
        kernel, bias = kernel + weight * scale, bias + shift
    if block.identity is not None:
        scale, shift = scale_shift(block.identity)
        weight = torch.zeros_like(block.rbr_dense.conv.weight)
        for i in range(len(weight)):
            weight[i, i % weight.shape[1], 1, 1] = 1
        kernel, bias = kernel + weight * scale, bias + shift
    conv = block.rbr_dense.conv
    fused = nn.Conv2d(
        conv.in_channels, conv.out_channels, 3, conv.stride, padding=1, groups=conv.groups
    )
    fused.weight.data, fused.bias.data = kernel, bias
    block.rbr_reparam = fused
    del block.rbr_dense, block.rbr_1x1
    if block.identity is not None:
        del block.rbr_identity


def main() -> None:
    name, source, target = sys.argv[1:]
    network = RepVGG(ZOO[name].spec(), "train")
    network.load_state_dict(torch.load(source))
    with torch.no_grad():
        for _, block in network.chain:
            switch_to_deploy(block)
    torch.save(network.state_dict(), target)


if __name__ == "__main__":
    main()
