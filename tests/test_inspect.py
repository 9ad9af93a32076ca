"""inspect: what a file holds and what fuse would do, held against what fuse does."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from repvgg_deploy.steps.fuse_onnx import fuse_onnx
from repvgg_deploy.steps.inspect import inspect_checkpoint, inspect_onnx
from repvgg_deploy.steps.weights import BY_ITSELF

from .conftest import Cli
from .graphs import graph
from .helpers import GOLDEN

FAMILIES = GOLDEN / "families"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize(
    "name",
    ["apple_mobileone", "rtdetr_repvgg", "repvit_official", "yolov7_repconv", "repvggplus_pse"],
)
def test_parameters_after_are_those_that_fuse_writes(cli: Cli, name: str) -> None:
    path = next(p for p in (FAMILIES / f"{name}.pth", GOLDEN / f"{name}.pth") if p.exists())
    found = inspect_checkpoint(path, BY_ITSELF)
    assert not Path("engines").exists()
    assert cli("fuse", path, "--no-verify").code == 0
    fused = load_file(f"engines/{path.stem}/fused.safetensors")
    held = sum(tensor.numel() for key, tensor in fused.items() if not key.endswith(STATISTICS))
    assert found.parameters_after == held != found.parameters
    for block in found.blocks:
        shapes = (block.kernel, block.kernel[:2])  # a linear layer's has two sides
        assert any(tuple(tensor.shape) in shapes for tensor in fused.values()), block


def test_the_table_of_a_checkpoint(cli: Cli) -> None:
    result = cli("inspect", GOLDEN / "official_se.pth")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert "custom (repvgg, depths 2-2-3-1, widths 16-16-32-64-128, SE), 7 classes" in lines[0]
    assert lines[1].startswith("repvgg: 9 RepVGGBlock, 9 with SE, batch-norm eps 1e-05")
    # 16*3*9 + 16*3 + two batch norms of 2*16; fused 16*3*9 + 16
    assert lines[2].endswith(
        "batch-norm eps 1e-05, strides 2-2-2-2-2, padding 1, ReLU after each block; "
        "set with --eps, --strides"
    )
    assert lines[4].split() == [
        "stage0", "repvgg", "RepVGGBlock", "2", "16x3x3x3", "yes", "544", "448",
    ]  # fmt: skip
    assert lines[-1] == "parameters: 212,658; fused: 190,482"


def test_json_of_a_checkpoint(cli: Cli) -> None:
    path = FAMILIES / "yolov7_repconv.pth"
    found = json.loads(cli("inspect", path, "--eps", "0.002", "--json").out)
    assert [block["path"] for block in found["blocks"]] == [f"model.{i}" for i in range(4)]
    assert [block["eps"] for block in found["blocks"]] == [0.002] * 4
    assert found["form"] == "train"
    assert found["spec"] is None
    assert "no whole RepVGG" in found["not_whole"]


def test_what_shapes_do_not_tell_is_said(cli: Cli) -> None:
    out = cli("inspect", FAMILIES / "yolov6_qarepvgg.pth").out
    assert "note: 2 of them are taken for dense blocks that widen" in out
    assert "taken for" not in cli("inspect", FAMILIES / "timm_repvit.pth").out


def test_an_identity_that_no_tensor_shows_is_said(cli: Cli, tmp_path: Path) -> None:
    state = torch.load(FAMILIES / "yolov6_qarepvgg.pth")
    block = {k: v for k, v in state.items() if v.ndim == 4 and v.shape[0] == v.shape[1]}
    path = next(key.partition(".rbr_")[0] for key in block)
    kept = {k: v for k, v in state.items() if k.startswith(f"{path}.")}
    torch.save(kept, tmp_path / "one.pth")
    result = cli("fuse", tmp_path / "one.pth")
    assert result.code == 0, result.err
    assert "1 of them have as many channels out as in and are taken for" in result.err


def test_an_activation_with_weights_is_no_squeeze_excitation(tmp_path: Path) -> None:
    state = torch.load(FAMILIES / "yolov7_repconv.pth")
    torch.save({**state, "model.0.act.weight": torch.ones(16)}, tmp_path / "prelu.pth")
    assert inspect_checkpoint(tmp_path / "prelu.pth", BY_ITSELF).kinds[0].with_se == 0


def test_fused_and_foreign_checkpoints_have_nothing_to_fuse(cli: Cli, tmp_path: Path) -> None:
    out = cli("inspect", GOLDEN / "official_deployed.pth").out
    assert "nothing to fuse: it is fused already." in out
    torch.save({"fc.weight": torch.ones(3, 2)}, tmp_path / "foreign.pth")
    result = cli("inspect", "foreign.pth")
    assert result.code == 0
    assert "no known blocks" in result.out
    assert "can be fused through its ONNX file." in result.out
    assert "parameters: 6; fused: 6" in result.out
    result = cli("inspect", GOLDEN / "official_plain.pth", "--family", "yolov7")
    assert "nothing to fuse: no blocks of yolov7 found; leave out --family" in result.out
    refused = cli("fuse", GOLDEN / "official_plain.pth", "--family", "yolov7")
    assert refused.code == 1
    assert (
        "Nearest: block stage0 (and 8 more): is of repvgg, and --family asks for yolov7 alone."
        in refused.err
    )


def test_the_table_of_a_graph(cli: Cli) -> None:
    result = cli("inspect", GOLDEN / "official_plain.bn.onnx")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert "18 Conv" in lines[0]
    assert len(lines) == 1 + 1 + 9 + 1
    assert lines[2].split()[2:4] == ["5", "2"]  # nodes and convolutions of the first block
    found = json.loads(cli("inspect", GOLDEN / "official_plain.bn.onnx", "--json").out)
    assert len(found["fused"]) == 9
    assert found["operators"]["Conv"] == 18
    assert not Path("engines").exists()


def test_what_stays_is_said(cli: Cli, tmp_path: Path) -> None:
    onnx.save(graph("t = Conv<group=2>(x, deep)  y = Conv(t, swap)"), tmp_path / "a.onnx")
    assert "stays as it is: t: " in cli("inspect", "a.onnx").out
    assert "nothing to fuse" not in cli("inspect", "a.onnx", "--allow-costlier").out


def test_shared_weights_are_counted_once(tmp_path: Path) -> None:
    source = tmp_path / "a.onnx"
    body = "a = Conv(x, swap)  p = Mul(a, half)  r = Relu(p)  c = Conv(r, swap)  y = Mul(c, half)"
    onnx.save(graph(body), source)
    check_against_fuse(source)


def test_parameters_of_a_graph(tmp_path: Path) -> None:
    source = tmp_path / "a.onnx"
    onnx.save(graph("t = Conv(x, swap, b)  y = Mul(t, two_three)"), source)
    found = inspect_onnx(source)
    assert found.parameters - found.parameters_after == 2  # the scale: [2,1,1]
    check_against_fuse(source)


def check_against_fuse(source: Path) -> None:
    found = inspect_onnx(source)
    assert found.fused
    output = source.with_name("fused.onnx")
    fuse_onnx(source, output)
    held = sum(numpy_helper.to_array(t).size for t in onnx.load(output).graph.initializer)
    assert held == found.parameters_after


@pytest.mark.parametrize("name", ["missing.onnx", "missing.pth"])
def test_missing_files(cli: Cli, name: str) -> None:
    result = cli("inspect", name)
    assert result.code == 1
    assert f"{name}: no such file" in result.err


def test_options_of_the_other_kind_are_refused(cli: Cli) -> None:
    result = cli("inspect", GOLDEN / "official_plain.onnx", "--family", "repvgg")
    assert result.code == 2
    assert "--family has no effect here" in result.err
    result = cli("inspect", GOLDEN / "official_plain.pth", "--allow-costlier")
    assert result.code == 2
    assert "--allow-costlier has no effect here" in result.err
