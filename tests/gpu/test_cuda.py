"""The proof, the benchmark and the TensorRT path on a real GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repvgg_deploy.optional import available

from ..conftest import Cli
from ..helpers import TRAIN_NAMES, golden


@pytest.mark.parametrize("name", TRAIN_NAMES)
def test_the_proof_holds_on_the_gpu(cli: Cli, name: str) -> None:
    result = cli("fuse", golden(name), "--device", "cuda", "--json")
    assert result.code == 0, result.err
    proof = json.loads(result.out)["proof"]
    assert proof["device"] == "cuda"
    assert proof["end_to_end"]["ratio"] <= 8


def test_auto_takes_the_gpu(cli: Cli, checkpoint: Path) -> None:
    result = cli("fuse", checkpoint, "--json")
    assert json.loads(result.out)["proof"]["device"] == "cuda"


def test_onnx_against_the_gpu(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    for extra in ([], ["--fp16"]):
        assert cli("export", "--onnx", "--size", "32", *extra).code == 0
    assert cli("verify", "--device", "cuda").code == 0


def test_bench_on_the_gpu(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    result = cli("bench", "--runtime", "torch-cuda", "--size", "32", "--duration", "1", "--json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data["environment"]["gpu"]
    assert len(data["contests"][0]["summaries"]) == 3


def test_tensorrt_builds_for_this_gpu(cli: Cli, checkpoint: Path) -> None:
    if available("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    cli("fuse", checkpoint)
    result = cli("export", "--trt", "fp16", "--size", "32", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[-1]["flavour"] == "tensorrt"
