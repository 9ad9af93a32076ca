"""Batch norm over the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronize_norms(network: nn.Module, device: torch.device) -> None:
    """Replace batch norms in place; parameters, buffers and keys stay.

    torch's SyncBatchNorm on CUDA; it has no kernels for other devices, which get
    :class:`SyncedBatchNorm`.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm


class SyncedBatchNorm(nn.BatchNorm2d):
    """Over equal parts of a batch, each in a process.

    Mean first, then the squares of what deviates from it, so that two processes differ from one
    by the order of sums alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        exact = x.to(self.weight.dtype)  # statistics of half-precision activations are in fp32
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _sum_processes(exact.sum((0, 2, 3))) / count
        centred = exact - mean[:, None, None]
        variance = _sum_processes(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("a batch norm keeps running statistics")
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum_processes(x: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow back to each."""
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total
