"""Engines on a GPU, from checkpoint to measurement, and in a user's own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repvgg_deploy import Engine
from repvgg_deploy.engine.gpu import this_gpu
from repvgg_deploy.engine.load import read_engine
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.zoo import ZOO
from repvgg_deploy.runners.tensorrt.runner import EngineRunner
from repvgg_deploy.steps.bench_subjects import FUSED

from .engines import ENGINES, engine_chain, rtx_for_this_gpu
from .networks import NAMES, forms
from .parts import no_engines

#: TensorRT and pycuda warn of more than our own faults.
pytestmark = pytest.mark.filterwarnings("default")

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def need(flavour: str) -> None:
    if (reason := no_engines(MODULES[flavour])) is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tensorrt_from_checkpoint_to_measurement(tmp_path: Path, precision: str) -> None:
    need("tensorrt")
    results = engine_chain(NAMES[0], "tensorrt", precision, tmp_path, 1.0, "--size", "64")
    assert [result["exit_code"] for result in results] == [0] * 4, results[-1]["said"]
    assert results[2]["json"][0]["end_to_end"]["passed"]


def test_torch_and_an_engine_share_the_gpu(tmp_path: Path) -> None:
    """Tensors go in where they lie, and torch goes on working afterwards."""
    need("tensorrt")
    results = engine_chain(NAMES[0], "tensorrt", "fp16", tmp_path, 0.5, "--size", "64")
    assert results[1]["exit_code"] == 0, results[1]["said"]
    images = torch.randn(4, 3, 64, 64, device="cuda", dtype=torch.float16)
    with Engine(tmp_path / ENGINES / "fp16.tensorrt.engine") as engine:
        engine.warm_up()
        from_gpu, from_host = engine(images), engine(images.cpu().numpy())
    for name, values in from_gpu.items():
        np.testing.assert_array_equal(values, from_host[name])
    assert torch.isfinite(images.sum())


def test_a_cuda_graph_gives_the_same(tmp_path: Path) -> None:
    need("tensorrt")
    results = engine_chain(NAMES[0], "tensorrt", "fp16", tmp_path, 0.5, "--size", "64")
    assert results[1]["exit_code"] == 0, results[1]["said"]
    file = read_engine(tmp_path / ENGINES / "fp16.tensorrt.engine")
    images = np.random.default_rng(0).standard_normal((8, 3, 64, 64)).astype(np.float16)
    with EngineRunner(file) as plain, EngineRunner(file, cuda_graph=True) as recorded:
        for count in (8, 3, 8):
            expected, _ = plain.run(images[:count])
            output, times = recorded.run(images[:count])
            assert times.compute > 0
            for name, values in output.items():
                np.testing.assert_array_equal(values, expected[name])


def test_rtx_builds_for_this_gpu_or_says_why_not(tmp_path: Path) -> None:
    need("rtx")
    gpu = this_gpu()
    assert gpu is not None
    onnx, path = tmp_path / "fp16.onnx", tmp_path / "current.engine"
    size = ZOO[NAMES[0]].image_size
    model = to_onnx(forms(NAMES[0])[FUSED], (size, size), precision="fp16")
    onnx.write_bytes(model.SerializeToString())
    outcome = rtx_for_this_gpu(onnx, path, gpu)
    if outcome["engine_bytes"] is None:
        assert outcome["said"]
        pytest.skip(f"TensorRT-RTX refuses {gpu.capability}: {outcome['said'][-1]}")
    images = np.zeros((1, 3, size, size), np.float16)
    used = []
    for _ in ("cold", "warm"):
        with EngineRunner(read_engine(path)) as runner:
            runner.run(images)
            assert runner.start is not None
            used.append(runner.start.cache_used)
    assert used == [False, True]
