"""Whole files: one family for a kind of block, proof of being fused, prefixes, and true reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repvgg_deploy import fuse_modules
from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.steps.weights import BY_ITSELF, Reading, WeightsFile, read_weights

from . import module_nets as nets
from .conftest import Cli
from .helpers import GOLDEN
from .module_nets import RepVGGBlock, conv_norm, trained

State = dict[str, Tensor]


def blocks_at(*paths: str, block: nn.Module | None = None) -> State:
    state = trained(block or RepVGGBlock(4, 4)).state_dict()
    return {f"{path}.{key}": tensor for path in paths for key, tensor in state.items()}


def read(tmp_path: Path, state: State, reading: Reading = BY_ITSELF) -> WeightsFile:
    torch.save(state, tmp_path / "x.pth")
    return read_weights(tmp_path / "x.pth", reading)


def official() -> State:
    return dict(load_checkpoint(GOLDEN / "official_plain.pth").state)


MMYOLO = ("backbone.stem", "backbone.stage1.0", "neck.top_down_layers.0")


def test_one_kind_of_block_gets_one_family_and_eps(cli: Cli, tmp_path: Path) -> None:
    """mmyolo's YOLOv6: the stem stands where YOLOv6 has it, the stages where RepVGG has them."""
    torch.save(blocks_at(*MMYOLO), tmp_path / "x.pth")
    refused = cli("fuse", "x.pth")
    assert refused.code == 1
    assert "--family repvgg (eps 1e-05) or --family yolov6 (eps 0.001)" in refused.err
    assert not Path("engines").exists()
    for options in (["--family", "yolov6"], ["--eps", "1e-3"]):
        fused = cli("fuse", "x.pth", *options)
        assert fused.code == 0, fused.err
        assert "3 RepVGGBlock, batch-norm eps 0.001" in fused.err


def test_one_block_of_no_place_asks_for_its_kind(tmp_path: Path) -> None:
    state = blocks_at("stage1.0", "stage2.0", "head.0")
    with pytest.raises(UserError, match="--family repvgg"):
        read(tmp_path, state)
    assert len(read(tmp_path, state, Reading(family="repvgg")).blocks) == 3
    assert len(read(tmp_path, state, Reading(eps=1e-5)).blocks) == 3


def test_an_eps_of_other_code_at_a_place_of_yolos_is_asked_for(tmp_path: Path) -> None:
    state = blocks_at("model.3", "model.4", block=nets.MobileOneBlock(4, 4, 3, 1))
    asked = read(tmp_path, state)
    assert asked.blocks == []
    assert "say --family mobileone (eps 1e-05) or --eps 0.001" in asked.left["model.3"]
    for reading in (Reading(family="mobileone"), Reading(eps=1e-3)):
        assert len(read(tmp_path, state, reading).blocks) == 2
    assert len(read(tmp_path, blocks_at("m.3", block=nets.MobileOneBlock(4, 4, 3, 1))).blocks) == 1


class Placeholder(nn.Module):
    """A block as YOLO-NAS trains it: a convolution beside the branches that nothing uses yet."""

    def __init__(self) -> None:
        super().__init__()
        self.branch_3x3 = conv_norm(4, 4, 3)
        self.branch_1x1 = nn.Conv2d(4, 4, 1)
        self.post_bn = nn.BatchNorm2d(4)
        self.rbr_reparam = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.post_bn(self.branch_3x3(x) + self.branch_1x1(x))


def test_a_placeholder_is_no_fused_block(cli: Cli, tmp_path: Path) -> None:
    model = trained(nn.Sequential(Placeholder(), Placeholder()))
    torch.save(model.state_dict(), tmp_path / "nas.pth")
    refused = cli("fuse", "nas.pth")
    assert refused.code == 1
    assert "rbr_reparam.weight beside branch_3x3.conv.weight" in refused.err
    inspected = cli("inspect", "nas.pth")
    assert "fused already" not in inspected.out
    assert "rbr_reparam.weight beside" in inspected.out
    left = fuse_modules(model).left
    assert [one.path for one in left] == ["0", "1"]
    assert all("rbr_reparam.weight beside" in one.reason for one in left)


def test_a_placeholder_beside_known_branches(tmp_path: Path) -> None:
    state = blocks_at("stage1.0", "stage1.1")
    state |= {f"stage1.0.rbr_reparam.{k}": v for k, v in nn.Conv2d(4, 4, 3).state_dict().items()}
    weights = read(tmp_path, state)
    assert [block.path for block in weights.blocks] == ["stage1.1"]
    assert "rbr_reparam.weight" in weights.left["stage1.0"]
    assert not weights.holds_fused


def test_fused_blocks_beside_ones_that_cannot_be_fused_are_no_fused_file(
    cli: Cli, tmp_path: Path
) -> None:
    fused = nn.Conv2d(4, 4, 3).state_dict()
    state = {f"stage1.1.rbr_reparam.{key}": tensor for key, tensor in fused.items()}
    torch.save(state, tmp_path / "x.pth")
    assert "already fused" in cli("fuse", "x.pth").err
    torch.save(
        {**state, **blocks_at("stage1.0"), "stage1.0.gamma": torch.ones(4)}, tmp_path / "x.pth"
    )
    refused = cli("fuse", "x.pth", "--name", "y")
    assert refused.code == 1
    assert "holds gamma" in refused.err


@pytest.mark.parametrize("name", ["rtdetr_repvgg.pth", "yolov6_qa_v1.pth", "timm_fastvit.pth"])
def test_what_fuse_wrote_is_fused_already(cli: Cli, name: str) -> None:
    """Also where the deploy form keeps the branches, or the batch norm after the sum."""
    assert cli("fuse", GOLDEN / "families" / name).code == 0
    again = cli(
        "fuse", Path("engines", name.removesuffix(".pth"), "fused.safetensors"), "--name", "x"
    )
    assert again.code == 0, again.err
    assert "already fused" in again.err


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "model.net."])
def test_a_prefix_of_every_key_of_a_whole_network_goes(
    cli: Cli, tmp_path: Path, prefix: str
) -> None:
    state = {f"{prefix}{key}": tensor for key, tensor in official().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "lit.ckpt")
    fused = cli("fuse", "lit.ckpt")
    assert fused.code == 0, fused.err
    assert f"prefix {prefix}" in fused.err
    weights = read_weights(tmp_path / "lit.ckpt")
    assert set(weights.checkpoint.state) == set(official())
    assert weights.whole is not None
    assert {block.eps() for block in weights.blocks} == {1e-5}


def test_a_prefix_of_what_is_no_whole_network_stays(tmp_path: Path) -> None:
    """YOLO's ``model.`` is a part of the paths that tell its blocks."""
    state = load_checkpoint(GOLDEN / "families" / "ultralytics_repconv.pth").state
    assert all(key.startswith("model.") for key in state)
    assert set(read(tmp_path, dict(state)).checkpoint.state) == set(state)


@pytest.mark.parametrize(
    "more", ["alpha", "rbr_3x1.conv.weight", "post_se.down.weight", "rbr_avg.bn.weight", "se.x"]
)
def test_a_network_with_a_stranger_in_a_block_is_no_whole_one(
    cli: Cli, tmp_path: Path, more: str
) -> None:
    torch.save({**official(), f"stage2.0.{more}": torch.ones(32, 32, 3, 1)}, tmp_path / "x.pth")
    cli("fuse", "x.pth")
    weights = read_weights(tmp_path / "x.pth")
    assert weights.whole is None
    assert cli("export", "--onnx", "--size", 32).code == 1


def test_a_scale_of_one_number_in_a_module() -> None:
    """RT-DETRv2's alpha has shape [1]."""

    class Alpha(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = conv_norm(4, 4, 3), conv_norm(4, 4, 1)
            self.alpha = nn.Parameter(torch.tensor([0.4]))
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv1(x) + self.alpha * self.conv2(x))

    model = trained(nn.ModuleDict({"stages": nn.ModuleList([nn.Sequential(Alpha(), Alpha())])}))
    fusion = fuse_modules(model)
    assert len(fusion.fused) == 2, fusion
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(
        fusion.model["stages"][0](x), model["stages"][0](x), atol=1e-5, rtol=1e-4
    )


def test_a_stranger_to_one_family_may_be_defined_by_another() -> None:
    """RepConv with a batch norm for the identity has all names of RT-DETRv2's block."""

    class RepConv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = conv_norm(4, 4, 3), conv_norm(4, 4, 1)
            self.bn, self.act = nn.BatchNorm2d(4), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv1(x) + self.conv2(x) + self.bn(x))

    fusion = fuse_modules(trained(nn.Sequential(RepConv())))
    assert [(one.family, one.block) for one in fusion.fused] == [("yolov9", "RepConv")], fusion


def test_a_scale_along_the_width_is_no_scale_of_channels() -> None:
    """``alpha * x`` with alpha of shape [C] multiplies columns of the image."""
    state = blocks_at("stages.0.b", block=nn.ModuleDict({
        "conv1": conv_norm(4, 4, 3), "conv2": conv_norm(4, 4, 1),
    }))  # fmt: skip
    for shape, count in (((1,), 1), ((), 1), ((4, 1, 1), 1), ((1, 4, 1, 1), 1), ((4,), 0)):
        found = find_blocks({**state, "stages.0.b.alpha": torch.ones(shape)})
        assert len(found.blocks) == count, shape


def test_plain_layers_alone_prove_no_code_base() -> None:
    """``c`` and ``bn`` are RepViT's names for a convolution and its batch norm, and of others."""
    state = blocks_at("blocks.0.m", block=conv_norm(4, 4, 1, names=("c", "bn")))
    found = find_blocks(state)
    assert (found.blocks, found.left) == ([], {})


def test_no_advice_to_use_what_training_saved(tmp_path: Path) -> None:
    """Blocks of other code, just as training saved them."""
    state = blocks_at("stage1.0")
    for key in [key for key in state if "rbr_1x1.bn" in key]:
        del state[key]
    weights = read(tmp_path, state)
    assert weights.blocks == []
    assert "as training saved" not in " ".join(weights.left.values())
    assert "rbr_1x1.bn.weight is missing" in weights.left["stage1.0"]
