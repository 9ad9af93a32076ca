"""The networks that are quantized: a trained RepVGG and its rescaled twins, fused, as ONNX."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor

from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.export.simplify import simplify
from repvgg_deploy.models.build import build
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.reparam.find import find_blocks, pick_families
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.weights import read_weights

from .twins import draw_factors, rescaled

TRAIN = Path(__file__).parents[3] / "docs" / "demo-checkpoint" / "train.py"
#: What the networks of train.py are trained for here.
EPOCHS = {"a0": 6, "g4": 4, "se": 4, "narrow": 40, "narrow9": 40}
IMAGE_SIZE = (32, 32)
SIGMAS = (1, 2)
SEEDS = (0, 1)


def checkpoint(folder: Path, network: str, data: Path) -> Path:
    """The network's training checkpoint; trained where the folder has none.

    Raises:
        SystemExit: its training has not come to its end; train.py writes the file at every epoch.
    """
    path, epochs = folder / f"{network}.pth", EPOCHS[network]
    if not path.exists():
        print(f"{path}: is not there; training it for {epochs} epochs (a0: up to half an hour)")
        command = [sys.executable, str(TRAIN), "--network", network, "--epochs", str(epochs)]
        subprocess.run([*command, "--data", str(data), "--out", str(folder)], check=True)
    done = torch.load(path, weights_only=True)["epoch"]
    if done < epochs:
        raise SystemExit(
            f"{path}: trained for {done} of {epochs} epochs; let train.py finish, or remove it."
        )
    return path


def variants(path: Path, sigmas: Sequence[int] = SIGMAS) -> dict[str, onnx.ModelProto]:
    """The network as it was trained, ``original``, and twins of every sigma and seed: fp32 models.

    Fused by our own fuse and written as ``export --onnx`` writes them (opset 17, dynamic batch).
    """
    network = read_weights(path).network
    found = {"original": fused(network.state, network.spec)}
    for sigma in sigmas:
        for seed in SEEDS:
            factors = draw_factors(network.spec, sigma, seed)
            twin = rescaled(network.state, network.spec, factors)
            found[f"sigma {sigma}, seed {seed}"] = fused(twin, network.spec)
    return found


def fused(state: Mapping[str, Tensor], spec: ArchSpec) -> onnx.ModelProto:
    """A training-form state dict under the official names, fused and as an ONNX model."""
    deployed = dict(state)
    fuse_in_place(deployed, find_blocks(deployed, pick_families(None)).blocks)
    network = build(deployed, spec, "deploy")
    return simplify(to_onnx(network, IMAGE_SIZE), spec.has_se)
