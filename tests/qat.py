"""Networks to train for int8, and a few steps of training, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.quantize.quantizer import RECIPES, QuantizedNetwork, quantize
from repvgg_deploy.train.batch import Batch, Objective
from repvgg_deploy.train.qat.settings import QatSettings

from .helpers import tiny_spec

Array = NDArray[np.float32]


def noise(count: int = 16, channels: int = 3, size: int = 16, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, channels, size, size)).astype(np.float32)


def in_batches(images: Array, size: int = 8) -> Callable[[], Iterator[Array]]:
    return lambda: (images[start : start + size] for start in range(0, len(images), size))


def fused_network(**changes: object) -> RepVGG:
    """A small network in deploy form, whose logits depend on every layer."""
    torch.manual_seed(0)
    network = RepVGG(tiny_spec(**changes), "deploy").eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return network


def post_training(network: RepVGG, settings: QatSettings, images: Array) -> QuantizedNetwork:
    """What training starts from, as settings have it."""
    return quantize(
        to_onnx(network, (images.shape[2], images.shape[3])),
        in_batches(images),
        RECIPES[settings.start],
        float_type=settings.float_type,
        stem=settings.stem,
        linear=settings.linear,
    )


def train(
    network: nn.Module, objective: Objective, images: Array, steps: int, lr: float
) -> list[float]:
    """The loss of each step, all on the same images."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9)
    network.train()
    device = parameters[0].device
    batch = Batch(torch.from_numpy(images).to(device), None)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = objective(network, batch, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
