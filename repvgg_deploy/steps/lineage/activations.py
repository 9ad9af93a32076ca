"""The range of what every block gives, before and after fusion, on real images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...artifacts import FusedArtifact, QuantizedArtifact
from ...data.demo import demo_checkpoint, demo_images
from ...errors import UserError
from ...files import sha256_file
from ...models.network import RepVGG
from ...runners.torch_network import exact_math
from ..calibration import calibrated_on
from .files import Found
from .parts import BlockActivations, Range
from .weights import Pair

#: Images that the ranges are over, and how many of them go through the networks at once.
IMAGES, BATCH = 32, 8
Images = NDArray[np.float32]


def find_images(files: list[Found]) -> tuple[str, Iterator[Images]] | None:
    """Images that a sidecar names: those of an int8 model's calibration, or the demo's own."""
    for found in files:
        artifact = found.artifact
        if isinstance(artifact, QuantizedArtifact) and (images := calibrated_on(artifact)):
            name = f"{images.path}, with which {found.entry.name} was calibrated"
            return name, images.take(IMAGES).batches(BATCH)
    made_from = {f.artifact.source.sha256 for f in files if isinstance(f.artifact, FusedArtifact)}
    if sha256_file(demo_checkpoint()) in made_from:
        bundled = demo_images()[0][:IMAGES]
        name = "the demo's bundled test images"
        return name, (bundled[i : i + BATCH] for i in range(0, IMAGES, BATCH))
    return None


@dataclass
class _Seen:
    """Smallest and largest value so far."""

    low: float = float("inf")
    high: float = float("-inf")

    def add(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            low, high = float(tensor.min()), float(tensor.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UserError("the network gives NaN or infinity on these images.")
            self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> Range:
        return Range(self.low, self.high)


@dataclass
class _Block:
    branches: _Seen = field(default_factory=_Seen)
    before: _Seen = field(default_factory=_Seen)
    after: _Seen = field(default_factory=_Seen)


def measure_activations(
    pair: Pair, batches: Iterator[Images]
) -> tuple[list[BlockActivations], int]:
    """Ranges over all ``batches`` [N, C, H, W], and how many images those were.

    Raises:
        UserError: NaN or infinity among the values.
    """
    if pair.fused is None or pair.fused.whole is None:
        return [], 0
    deploy = pair.fused.whole.build()
    whole = None if pair.train is None else pair.train.whole
    train = None if whole is None else whole.build()
    seen = {name: _Block() for name, _ in deploy.chain}
    samples = 0
    for batch in batches:
        with torch.inference_mode(), exact_math():
            _walk(train, deploy, torch.from_numpy(np.ascontiguousarray(batch)), seen)
        samples += len(batch)
    return [
        BlockActivations(
            name,
            None if train is None else block.branches.range(),
            None if train is None else block.before.range(),
            block.after.range(),
        )
        for name, block in seen.items()
    ], samples


def _walk(train: RepVGG | None, deploy: RepVGG, images: Tensor, seen: dict[str, _Block]) -> None:
    """Each network on its own; at any time the maps of one block are in memory."""
    x = images
    for name, block in deploy.chain:
        linear = block.linear(x)
        seen[name].after.add(linear)
        x = block.activation(linear)
    if train is None:
        return
    x = images
    for name, block in train.chain:
        branches = block.branches(x)
        linear = block.joined(branches)
        seen[name].branches.add(*branches)
        seen[name].before.add(linear)
        x = block.activation(linear)
