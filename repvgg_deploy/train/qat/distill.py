"""Distillation: the float network's logits are what is aimed at, so no labels are needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batch import Batch


class Distillation:
    """The squared error of the logits as a part of the float network's own power: the inverse of
    the SQNR that quantize reports. An Objective.

    The divergence of the softened classes (Hinton et al., arXiv 1503.02531) gave the same accuracy,
    and fell apart at a learning rate that this one stands (docs/training.md).
    """

    def __init__(self, teacher: nn.Module) -> None:
        self._teacher = teacher.eval().requires_grad_(False)

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        with torch.no_grad():
            aim: Tensor = self._teacher.to(batch.images.device)(batch.images).float()
        found: Tensor = network(batch.images).float()
        return (found - aim).square().sum() / aim.square().sum().clamp(min=1e-12)
