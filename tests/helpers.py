"""Small networks and golden files that many tests share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.models.zoo import make_spec

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
#: Golden checkpoints in training form.
TRAIN_NAMES = [name for name, entry in MANIFEST.items() if entry["form"] == "train"]


def golden(name: str) -> Path:
    return GOLDEN / f"{name}.pth"


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as content:
        return dict(content)


def tiny_spec(**changes: object) -> ArchSpec:
    """A RepVGG of 5 blocks, small enough to run in milliseconds."""
    layout: dict[str, object] = {
        "depths": (1, 1, 2, 1), "widths": (4, 4, 8, 8, 16), "num_classes": 5, **changes,
    }  # fmt: skip
    return make_spec(**layout)  # type: ignore[arg-type]


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norm statistics as training leaves them, some channels nearly dead."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            with torch.no_grad():
                module.running_mean.copy_(torch.randn(size, generator=generator))
                module.running_var.copy_(torch.rand(size, generator=generator) * 1.5 + 0.05)
                module.weight.copy_(torch.randn(size, generator=generator))
                module.bias.copy_(torch.randn(size, generator=generator))
                module.running_var[0], module.running_mean[0] = 1e-6, 1e-3
                module.weight[0] = 1e-2
    return network.eval()


def training_state(spec: ArchSpec | None = None, seed: int = 0) -> dict[str, Tensor]:
    """A training-form state dict with plausible statistics."""
    torch.manual_seed(seed)
    return dict(randomized(RepVGG(spec or tiny_spec(), "train"), seed).state_dict())
