"""Parameters and multiply-adds, counted by walking the module; nothing is copied from a paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .build import skeleton
from .spec import ArchSpec


@dataclass(frozen=True)
class Counts:
    """``macs`` and ``winograd_muls`` are for one image through the deploy form.

    A stride-1 3x3 convolution takes 16 multiplications where it took 36 in the Winograd
    F(2x2, 3x3) scheme, so it counts 4/9 in ``winograd_muls`` (RepVGG paper, section 4.1).
    """

    train_params: int
    deploy_params: int
    macs: int
    winograd_muls: float


def count(spec: ArchSpec, image_size: int = 224) -> Counts:
    """Count a network at ``image_size`` x ``image_size`` pixels."""
    deploy = skeleton(spec, "deploy")
    macs, winograd = _multiply_adds(deploy, spec.in_channels, image_size)
    return Counts(_parameters(skeleton(spec, "train")), _parameters(deploy), macs, winograd)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _multiply_adds(network: nn.Module, in_channels: int, size: int) -> tuple[int, float]:
    totals = [0, 0.0]

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        macs = output[0].numel() * module.get_parameter("weight")[0].numel()
        totals[0] += macs
        winograd = isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) == (
            (3, 3),
            (1, 1),
        )
        totals[1] += macs * 4 / 9 if winograd else macs

    handles = [
        module.register_forward_hook(add)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    network(torch.empty(1, in_channels, size, size, device="meta"))
    for handle in handles:
        handle.remove()
    return int(totals[0]), totals[1]
