"""How fusion comes to cost points of top-1 elsewhere: one network, measured or fused wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repvgg_deploy.data.image_set import ImageSet
from repvgg_deploy.models.build import build
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.weights import WeightsFile, read_weights


def faulty_procedures(checkpoint: Path, images: ImageSet) -> dict[str, float]:
    """Top-1 in percent, by what was done."""
    weights = read_weights(checkpoint)
    trained = weights.network.build()
    found = {
        "training form, eval()": top1(trained.eval(), images),
        "fused": top1(_fused(weights, None), images),
    }
    for size in (8, 32, 128):
        name = f"training form without eval(), batches of {size}"
        found[name] = top1(weights.network.build().train(), images, size)
    for eps in (1e-3, 1e-2):
        found[f"fused with eps {eps:g} where training had 1e-05"] = top1(
            _fused(weights, eps), images
        )
    for name, spoil in SPOILED.items():
        found[f"fused, {name}"] = top1(_fused(weights, None, spoil), images)
    return found


def top1(network: nn.Module, images: ImageSet, size: int = 128) -> float:
    """In the mode that the network is in."""
    assert images.labels is not None
    with torch.no_grad():
        right = sum(
            int((network(torch.from_numpy(batch)).argmax(1).numpy() == labels).sum())
            for batch, labels in zip(images.batches(size), _split(images, size), strict=True)
        )
    return 100 * right / len(images)


def _split(images: ImageSet, size: int) -> Iterator[np.ndarray]:
    assert images.labels is not None
    for start in range(0, len(images), size):
        yield images.labels[start : start + size]


def _without_pointwise(state: dict[str, Tensor]) -> None:
    for key in state:
        if ".rbr_1x1." in key and key.endswith("weight"):
            state[key] = torch.zeros_like(state[key])


def _half(state: dict[str, Tensor]) -> None:
    """Fused from weights that went through fp16."""
    for key in state:
        if state[key].is_floating_point():
            state[key] = state[key].half().float()


SPOILED: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "the 1x1 branch forgotten": _without_pointwise,
    "from statistics and weights cast to fp16": _half,
}


def _fused(
    weights: WeightsFile,
    eps: float | None,
    spoil: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> RepVGG:
    state = dict(weights.network.state)
    spoil(state)
    fuse_in_place(state, weights.blocks, eps, overwrite=False)
    return build(state, weights.network.spec, "deploy")
