"""Networks that are an attribute of another module: a prefix that every key has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.steps.weights import read_weights

from .conftest import Cli
from .helpers import GOLDEN, training_state

NETWORKS = (
    *("official_plain.pth", "official_se.pth", "repvggplus_pse.pth", "families/qarepvgg.pth"),
    *("families/timm_repvgg.pth", "families/mmpretrain_repvgg.pth"),
)


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "module.model.net."])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_prefix_of_all_keys_hides_no_network(name: str, prefix: str, tmp_path: Path) -> None:
    plain = read_weights(GOLDEN / name)
    state = {f"{prefix}{key}": value for key, value in load_checkpoint(GOLDEN / name).state.items()}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    read = read_weights(tmp_path / "x.ckpt")
    assert read.network.spec == plain.network.spec
    assert read.network.layout.name == plain.network.layout.name
    assert all(torch.equal(read.network.state[k], v) for k, v in plain.network.state.items())
    kinds = [(block.family.family, block.eps()) for block in read.blocks]
    assert kinds == [(block.family.family, block.eps()) for block in plain.blocks]


def test_the_pipeline_of_a_lightning_checkpoint(tmp_path: Path, cli: Cli) -> None:
    state = {f"model.{key}": value for key, value in training_state().items()}
    torch.save({"state_dict": state, "epoch": 1}, "lit.ckpt")
    assert cli("fuse", "lit.ckpt").code == 0
    fused = load_file("engines/lit/fused.safetensors")
    assert all(key.startswith(("stage", "linear")) for key in fused)
    assert cli("export", "--onnx", "--size", "32").code == 0


def test_a_prefix_of_most_keys_is_none(tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in training_state().items()}
    torch.save({**state, "criterion.weight": torch.ones(3)}, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").whole is None
