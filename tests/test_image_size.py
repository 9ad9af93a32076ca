"""One image size a model: whichever command decides it, the others follow or refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from repvgg_deploy.engine.flavour import NoTensorRT
from repvgg_deploy.steps.image_size import folder_sizes
from repvgg_deploy.workspace import ModelFolder

from .bench_runs import QUICK, TORCH
from .conftest import Cli
from .test_failed_checks import everything

FOLDER = ModelFolder(Path("engines/ckpt"))
CALIB = ("--calib", "x.npz")
SMALL = (32, 32)


@pytest.fixture
def fused(cli: Cli, checkpoint: Path) -> Cli:
    assert cli("fuse", checkpoint).code == 0
    images = np.random.default_rng(0).normal(size=(16, 3, *SMALL)).astype(np.float32)
    np.savez("x.npz", x=images)
    return cli


@pytest.fixture
def no_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(asked: str) -> None:
        raise NoTensorRT("no TensorRT here.")

    monkeypatch.setattr("repvgg_deploy.engine.flavour.choose_flavour", missing)


def quantize(cli: Cli) -> None:
    assert cli("quantize", *CALIB, "--method", "minmax").code == 0


def test_one_run_of_export(fused: Cli, no_builder: None) -> None:
    """Of ONNX and int8 by calibration: fp32.onnx was 224x224 beside an int8.onnx of 32x32."""
    result = fused("export", "--onnx", "--trt", "int8", *CALIB)
    assert result.code == 1 and "no TensorRT here" in result.err
    assert folder_sizes(FOLDER) == {"fp32.onnx": SMALL, "int8.onnx": SMALL}


def test_export_after_quantize(fused: Cli) -> None:
    quantize(fused)
    assert fused("export", "--onnx").code == 0
    assert folder_sizes(FOLDER) == {"fp32.onnx": SMALL, "int8.onnx": SMALL}
    result = fused("export", "--onnx", "--fp16", "--size", "64")
    assert result.code == 0
    assert "note: fp32.onnx takes images of 32x32 pixels" in result.err
    assert "note: int8.onnx takes images of 32x32 pixels" in result.err
    assert folder_sizes(FOLDER)["fp16.onnx"] == (64, 64)


def test_bench_after_quantize(fused: Cli) -> None:
    quantize(fused)
    result = fused("bench", *TORCH, *QUICK, "--json")
    assert result.code == 0, result.err
    assert {tuple(s["image_size"]) for s in json.loads(result.out)["subjects"]} == {SMALL}


def test_quantize_after_export_at_another_size(fused: Cli, no_builder: None) -> None:
    assert fused("export", "--onnx", "--size", "64x48").code == 0
    before = everything()
    result = fused("quantize", *CALIB, "--method", "minmax")
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert "32x32 pixels" in last and "fp32.onnx takes 64x48" in last and "--size 32x32" in last
    assert everything() == before
    assert fused("export", "--onnx", "--trt", "int8", *CALIB).code == 1  # makes both anew
    assert folder_sizes(FOLDER) == {"fp32.onnx": SMALL, "int8.onnx": SMALL}


def test_a_damaged_sidecar_does_not_decide(fused: Cli) -> None:
    """Nor does it keep export from making the model again."""
    assert fused("export", "--onnx", "--size", "64").code == 0
    for text in ("{", "[]", '{"input_shape": [0, 3, "a", 64]}', '{"input_shape": [0, 3, 0, 0]}'):
        (FOLDER.path / "fp32.onnx.json").write_text(text)
        assert folder_sizes(FOLDER) == {}
    assert fused("export", "--onnx", "--size", "32").code == 0
    assert folder_sizes(FOLDER) == {"fp32.onnx": SMALL}
