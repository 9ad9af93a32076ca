"""QARepVGG networks: built, read, fused, proved and exported."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from repvgg_deploy.errors import UserError
from repvgg_deploy.models.baseline import fold_conv_bn
from repvgg_deploy.models.build import build
from repvgg_deploy.models.count import count
from repvgg_deploy.models.infer import infer
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.models.zoo import ZOO, describe, named_spec, variant_name
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.linear import LinearConv
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.weights import Reading, read_weights

from .conftest import Cli
from .helpers import tiny_spec, training_state
from .test_linear import close, groups_and_widths, hostile_batch_norm, randn, seeds

PLAIN = tiny_spec(block="qarepvgg")
#: Blocks of two groups that do not change width, so with an identity that no shape shows.
GROUPED = tiny_spec(block="qarepvgg", groups=2, depths=(1, 3, 4, 1))
PLUS = tiny_spec(block="qarepvgg", family="repvggplus", se_ratio=4)
SPECS = {"plain": PLAIN, "grouped": GROUPED, "plus": PLUS}


def saved(folder: Path, spec: ArchSpec) -> Path:
    path = folder / "qa.pth"
    torch.save(training_state(spec), path)
    return path


def block_by_hand(state: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """The official default block: bn(bn3(conv3(x)) + conv1(x) + x), eps 1e-5, and ReLU."""

    def norm(path: str, y: Tensor) -> Tensor:
        leaves = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(y, *(state[f"{path}.{leaf}"] for leaf in leaves), eps=1e-5)

    k3, k1 = state[f"{name}.rbr_dense.conv.weight"], state[f"{name}.rbr_1x1.weight"]
    groups = x.shape[1] // k3.shape[1]
    y = norm(f"{name}.rbr_dense.bn", F.conv2d(x, k3, None, stride, 1, 1, groups))
    y = y + F.conv2d(x, k1, None, stride, 0, 1, groups)
    if stride == 1 and len(k3) == x.shape[1]:
        y = y + x
    return norm(f"{name}.bn", y).relu()


@pytest.mark.parametrize("spec", [PLAIN, GROUPED], ids=["plain", "grouped"])
def test_the_network_is_the_official_one(spec: ArchSpec) -> None:
    state = {
        key: value.double() if value.is_floating_point() else value
        for key, value in training_state(spec).items()
    }
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    logits = build(state, spec, "train", torch.float64)(x)
    for block in spec.blocks:
        x = block_by_hand(state, block.name, x, block.stride)
    expected = F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_keys_are_the_official_ones() -> None:
    keys = set(RepVGG(PLAIN, "train").state_dict())
    own = {key for key in keys if key.startswith("stage3.1.")}
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert own == {
        "stage3.1.rbr_dense.conv.weight",
        "stage3.1.rbr_1x1.weight",
        *(f"stage3.1.{norm}.{leaf}" for norm in ("rbr_dense.bn", "bn") for leaf in bn),
    }
    assert set(RepVGG(PLAIN, "deploy").state_dict()) == set(
        RepVGG(tiny_spec(), "deploy").state_dict()
    )


@pytest.mark.parametrize("name", SPECS)
def test_the_spec_is_read_off_the_state(name: str) -> None:
    spec = SPECS[name]
    assert infer(RepVGG(spec, "train").state_dict(), 1e-5) == (spec, "train")


def test_what_it_is_called() -> None:
    spec = ZOO["RepVGG-A0"].spec(10, block="qarepvgg")
    assert variant_name(spec) == "RepVGG-A0"
    assert describe(spec) == "RepVGG-A0, qarepvgg blocks, 10 classes"
    assert spec.to_dict()["block"] == "qarepvgg"
    assert count(spec).deploy_params == count(ZOO["RepVGG-A0"].spec(10)).deploy_params
    assert ZOO["RepVGG-A0"].spec(10, in_channels=1).in_channels == 1


@pytest.mark.parametrize("name", SPECS)
def test_the_full_path(cli: Cli, tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, SPECS[name])
    fused = cli("fuse", path)
    assert fused.code == 0, fused.err
    assert "batch-norm eps 1e-05" in fused.err
    assert "qarepvgg blocks" in fused.err
    assert "taken for dense" not in fused.err
    state = load_file("engines/qa/fused.safetensors")
    network = read_weights(path).network.build(torch.float64)
    deployed = build(state, SPECS[name], "deploy", torch.float64)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(deployed(x), network(x), rtol=1e-5, atol=1e-5)
    assert cli("verify").code == 0
    exported = cli("export", "--onnx", "--size", 32)
    assert exported.code == 0, exported.err
    kinds = {node.op_type for node in onnx.load("engines/qa/fp32.onnx").graph.node}
    assert not kinds & {"Add", "BatchNormalization"}
    inspected = cli("inspect", path)
    assert inspected.code == 0
    assert "qarepvgg blocks" in inspected.out


def test_bench_holds_it_against_its_own_branches(cli: Cli, tmp_path: Path) -> None:
    cli("fuse", saved(tmp_path, PLAIN))
    measured = cli(
        "bench", "--duration", 0.05, "--size", 32, "--runtime", "torch-cpu",
        "--runtime", "onnxruntime-cpu",
    )  # fmt: skip
    assert measured.code == 0, measured.err
    assert "proof: passed" in measured.err


@pytest.mark.parametrize("name", SPECS)
def test_folding_conv_bn_keeps_the_function(name: str) -> None:
    network = build(training_state(SPECS[name]), SPECS[name], "train", torch.float64)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_conv_bn(network)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-10, atol=1e-12)
    norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    aux = len(SPECS[name].aux_stages)
    assert len(norms) == len(network.chain) + aux  # those after the sums cannot be folded


@settings(max_examples=200, deadline=None)
@given(groups_and_widths, st.integers(1, 2), seeds)
def test_a_block_is_one_convolution(layout: tuple[int, int, int], stride: int, seed: int) -> None:
    """bn(bn3(3x3) + 1x1 + identity), both batch norms hostile, in float64."""
    groups, width, _ = layout
    channels = groups * width
    g = torch.Generator().manual_seed(seed)
    x = randn(g, 2, channels, 7, 6)
    k3, k1 = randn(g, channels, width, 3, 3), randn(g, channels, width, 1, 1)
    inner, outer = hostile_batch_norm(g, channels), hostile_batch_norm(g, channels)

    def norm(y: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        gamma, beta, mean, var = values
        return F.batch_norm(y, mean, var, gamma, beta, eps=1e-5)

    dense = F.conv2d(x, k3, None, stride, 1, 1, groups)
    terms = [norm(dense, inner), F.conv2d(x, k1, None, stride, 0, 1, groups)]
    folded = LinearConv.conv(k3, stride=stride, padding=1, groups=groups)
    folded = folded.then(LinearConv.batch_norm(*inner, 1e-5))
    folded += LinearConv.conv(k1, stride=stride, groups=groups)
    if stride == 1:
        terms.append(x)
        folded += LinearConv.identity(channels, groups)
    folded = folded.then(LinearConv.batch_norm(*outer, 1e-5))
    assert (folded.kernel_size, folded.stride, folded.groups) == ((3, 3), (stride,) * 2, groups)

    def per_channel(values: Tensor) -> Tensor:
        return values.abs()[:, None, None]

    def grown(y: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        """How large what adds up to a batch norm's output is."""
        gamma, beta, mean, var = values
        factor = per_channel(gamma / (var + 1e-5).sqrt())
        return (y + per_channel(mean)) * factor + per_channel(beta)

    first = grown(F.conv2d(x.abs(), k3.abs(), None, stride, 1, 1, groups), inner)
    scale = grown(first + torch.stack(terms[1:]).abs().sum(0), outer)
    close(folded(x), norm(torch.stack(terms).sum(0), outer), scale)


def test_the_place_decides_between_the_two_eps() -> None:
    """YOLOv6 has the same keys at other places, with eps 1e-3, and keeps the last batch norm."""
    state = {key: t for key, t in training_state(PLAIN).items() if key.startswith("stage3.1.")}
    there = find_blocks(state).blocks
    moved = {key.replace("stage3.1", "backbone.ERBlock_3.1"): t for key, t in state.items()}
    elsewhere = find_blocks(moved).blocks
    assert [(b.family.family, b.eps(), len(b.branches)) for b in there] == [("qarepvgg", 1e-5, 3)]
    assert [b.family.family for b in elsewhere] == ["yolov6-qarepvgg"]
    fuse_in_place(state, there)
    assert set(state) == {"stage3.1.rbr_reparam.weight", "stage3.1.rbr_reparam.bias"}
    fuse_in_place(moved, elsewhere)
    assert "backbone.ERBlock_3.1.bn.weight" in moved


def test_first_blocks_of_stages_have_no_identity() -> None:
    """Stage 1 of a RepVGG-A0 has as many channels in as out, and stride 2."""
    state = training_state(tiny_spec(block="qarepvgg", widths=(4, 4, 4, 8, 8), depths=(2, 1, 1, 2)))
    branches = {block.path: len(block.branches) for block in find_blocks(state).blocks}
    assert branches["stage1.0"] == branches["stage4.0"] == branches["stage2.0"] == 2
    assert branches["stage1.1"] == branches["stage4.1"] == 3


def test_yolov6_asked_by_name_builds_no_network(cli: Cli, tmp_path: Path) -> None:
    path = saved(tmp_path, PLAIN)
    weights = read_weights(path, Reading(family="yolov6-qarepvgg"))
    assert weights.whole is None
    assert "read as those of yolov6-qarepvgg" in weights.partial
    assert cli("fuse", path, "--family", "yolov6-qarepvgg").code == 0


def with_se(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Squeeze-excitation before the batch norm after the sum, as the official D2se has it."""
    for block in (block.name for block in PLAIN.blocks):
        width = len(state[f"{block}.bn.weight"])
        state |= {f"{block}.se.down.weight": torch.ones(1, width, 1, 1)}
        state |= {f"{block}.se.up.weight": torch.ones(width, 1, 1, 1)}
        state |= {f"{block}.se.down.bias": torch.ones(1), f"{block}.se.up.bias": torch.ones(width)}
    return state


def test_the_last_batch_norm_stays_behind_a_squeeze_excitation(cli: Cli, tmp_path: Path) -> None:
    state = with_se(training_state(PLAIN))
    torch.save(state, tmp_path / "se.pth")
    assert cli("fuse", tmp_path / "se.pth").code == 0
    fused = load_file("engines/se/fused.safetensors")
    norm = state["stage3.1.bn.weight"]
    assert torch.equal(fused["stage3.1.bn.weight"], norm)
    inner = build(training_state(PLAIN), PLAIN, "train", torch.float64)
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    total = torch.stack(inner.get_submodule("stage3.1").branches(x)).sum(0)  # type: ignore[operator]
    conv = (fused[f"stage3.1.rbr_reparam.{leaf}"].double() for leaf in ("weight", "bias"))
    torch.testing.assert_close(F.conv2d(x, *conv, padding=1), total, rtol=1e-5, atol=1e-5)
    exported = cli("export", "--onnx")
    assert exported.code == 1
    assert "so that one does not fold" in exported.err


def test_squeeze_excitation_before_the_relu_is_refused() -> None:
    with pytest.raises(UserError, match="no form that folds with squeeze-excitation"):
        ZOO["RepVGG-D2se"].spec(block="qarepvgg")
    assert ZOO["RepVGGplus-L2pse"].spec(block="qarepvgg").block == "qarepvgg"


def test_damage_is_not_taken_for_yolov6(tmp_path: Path) -> None:
    state = training_state(PLAIN)
    del state["stage3.1.bn.running_var"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"stage3.1: bn.running_var is missing"):
        read_weights(tmp_path / "x.pth")


def test_named_networks_of_other_widths() -> None:
    spec = named_spec("RepVGG-A0", 10, in_channels=1, widths=(8, 8, 16, 32, 64), block="qarepvgg")
    assert (spec.depths, spec.widths) == ((2, 4, 14, 1), (8, 8, 16, 32, 64))
    assert (spec.in_channels, spec.num_classes, spec.block) == (1, 10, "qarepvgg")
    assert named_spec("RepVGG-B1g2", 1000) == ZOO["RepVGG-B1g2"].spec()


@pytest.mark.parametrize(
    ("name", "widths", "sentence"),
    [
        ("RepVGG-A9", None, "--arch RepVGG-A9: unknown; known are RepVGG-A0, "),
        ("RepVGG-A0", (8, 8, 16, 32), "--widths 8,8,16,32: give five numbers"),
        ("RepVGG-A0", (8, 0, 16, 32, 64), "--widths 8,0,16,32,64: give five numbers"),
        ("RepVGG-B1g4", (8, 8, 18, 32, 64), "RepVGG-B1g4 needs multiples of 4"),
        ("RepVGG-D2se", (16, 16, 24, 32, 64), "RepVGG-D2se needs multiples of 16"),
    ],
)
def test_what_cannot_be_named(name: str, widths: tuple[int, ...] | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        named_spec(name, 10, widths=widths)
