"""Engines by the real TensorRT-RTX builder, which needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from repvgg_deploy.engine import flavour
from repvgg_deploy.engine.flavour import choose_flavour, pick_targets
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file

from .conftest import Cli
from .helpers import golden

trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx, which this platform lacks")
ALL = ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"]


@pytest.fixture
def fused(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A fused model, on a machine that has no GPU."""
    monkeypatch.setattr(flavour, "has_gpu", lambda: False)
    assert cli("fuse", checkpoint).code == 0
    return cli


def test_half_precision_for_every_target(fused: Cli) -> None:
    result = fused("export", "--onnx", "--trt", "fp16", "--size", "32", "--json")
    assert result.code == 0, result.err
    engine, onnx = Path("engines/ckpt/fp16.rtx.engine"), Path("engines/ckpt/fp16.onnx")
    record = json.loads(engine.with_name("fp16.rtx.engine.json").read_text())
    assert record == {"schema": 2, **json.loads(result.out)[-1]}
    assert record["sha256"] == sha256_file(engine)
    assert record["source"] == {"path": "fp16.onnx", "sha256": sha256_file(onnx)}
    assert (record["flavour"], record["precision"]) == ("rtx", "fp16")
    assert record["version"] == trt.__version__
    assert set(record["targets"]) >= set(ALL)
    assert record["profile"] == {
        "min": [1, 3, 32, 32],
        "opt": [32, 3, 32, 32],
        "max": [128, 3, 32, 32],
    }
    assert [a["precision"] for a in json.loads(result.out)] == ["fp32", "fp16", "fp16"]
    assert engine.read_bytes()[:1] != b"{"  # plain engine bytes, no header of ours
    assert "built, not run" in result.err


def test_single_precision_leaves_out_turing(fused: Cli) -> None:
    result = fused("export", "--trt", "fp32", "--size", "32", "--profile", "2,4,8", "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)[-1]
    assert "sm75" not in record["targets"]
    assert set(record["targets"]) >= set(ALL[1:])
    assert record["profile"]["opt"] == [4, 3, 32, 32]


def test_named_targets_and_a_fixed_batch(fused: Cli) -> None:
    arguments = (
        "--trt",
        "fp16",
        "--size",
        "32",
        "--target",
        "SM86,sm89,sm86",
        "--batch",
        "4",
        "--json",
    )
    result = fused("export", *arguments)
    assert result.code == 0, result.err
    record = json.loads(result.out)[-1]
    assert record["targets"] == ["sm86", "sm89"]
    assert record["profile"] == {key: [4, 3, 32, 32] for key in ("min", "opt", "max")}


def test_squeeze_excitation_builds(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavour, "has_gpu", lambda: False)
    cli("fuse", golden("repvggplus_pse"))
    assert cli("export", "--trt", "fp16", "--size", "64", "--target", "sm89").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trt", "fp16", "--target", "sm90"], "target sm90: TensorRT-RTX"),
        (["--trt", "fp32", "--target", "sm75"], "no float32 matrix product"),
    ],
)
def test_targets_that_cannot_be(fused: Cli, arguments: list[str], sentence: str) -> None:
    result = fused("export", "--size", "32", *arguments)
    assert result.code == 1
    assert sentence in result.err
    assert not list(Path("engines/ckpt").glob("*.engine*"))


def test_the_builders_own_words_are_quoted(fused: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own check out of the way, the builder itself refuses Turing in float32."""
    monkeypatch.setattr(flavour, "_NO_FP32_GEMM", set())
    result = fused("export", "--trt", "fp32", "--size", "32", "--target", "sm75")
    assert result.code == 1
    assert "the builder said:" in result.err
    assert "Turing" in result.err


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [
        ({"tensorrt", "tensorrt_rtx"}, True, "tensorrt"),
        ({"tensorrt", "tensorrt_rtx"}, False, "rtx"),
        ({"tensorrt_rtx"}, True, "rtx"),
        ({"tensorrt"}, True, "tensorrt"),
        ({"tensorrt"}, False, None),
        (set(), False, None),
    ],
)
def test_which_tensorrt(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], gpu: bool, chosen: str | None
) -> None:
    module = SimpleNamespace(__version__="1.0")
    monkeypatch.setattr(flavour, "available", lambda name: module if name in installed else None)
    monkeypatch.setattr(flavour, "has_gpu", lambda: gpu)
    if chosen is None:
        with pytest.raises(UserError, match=r"repvgg-deploy\[rtx\]"):
            choose_flavour()
    else:
        assert choose_flavour().name == chosen


def test_all_targets_by_default() -> None:
    assert set(pick_targets(trt, "fp16", [])) >= set(ALL)
    assert "sm75" not in pick_targets(trt, "fp32", [])
