"""ONNX Runtime on the device that was asked for, or a refusal: never the CPU in its place.

The package of the CPU stands in for onnxruntime-gpu whose CUDA libraries cannot be loaded: it only
claims to have the CUDA provider, and falls back to the CPU as the real one does. With the real one
(1.31.1, no CUDA here) this was tried by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.runners.onnx_cuda import OrtCudaRunner
from repvgg_deploy.runners.onnx_optimized import optimized
from repvgg_deploy.runners.onnx_provider import why_unusable
from repvgg_deploy.runners.onnx_runtime import OrtRunner
from repvgg_deploy.steps.bench_runtimes import missing_note, runtimes_missing

from .bench_runs import QUICK, RECORD
from .conftest import Cli
from .helpers import tiny_spec

ort = pytest.importorskip("onnxruntime")
REFUSED = "ONNX Runtime cannot load its CUDAExecutionProvider"


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package says that it has the CUDA provider."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("the real provider is here")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The provider's own shared library, which does not load."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))


def model() -> bytes:
    network = RepVGG(tiny_spec(), "deploy").eval()
    return bytes(to_onnx(network, (32, 32)).SerializeToString())


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_is_refused(claimed: None) -> None:
    session = ort.InferenceSession(model(), providers=["CUDAExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]  # what the stand-in does
    for opened in (lambda: OrtRunner(model(), "cuda"), lambda: OrtCudaRunner(model())):
        with pytest.raises(UserError, match=REFUSED):
            opened()
    with pytest.raises(UserError, match=REFUSED):
        optimized(model(), "cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_cause_is_what_the_loader_says(claimed: None, library: None) -> None:
    found = why_unusable("cuda")
    assert found.startswith(REFUSED)
    assert "libonnxruntime_providers_cuda.so" in found
    assert why_unusable("cpu") == ""


def test_a_session_does_not_fall_back_while_it_runs() -> None:
    """ONNX Runtime's Python layer would open it again on the CPU and go on."""
    assert OrtRunner(model())._session._enable_fallback is False


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_bench_does_not_offer_it(
    claimed: None, pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert REFUSED in runtimes_missing()["onnxruntime-cuda"]
    assert REFUSED in (missing_note() or "")
    result = pipeline("bench", "--runtime", "onnxruntime-cuda", *QUICK)
    assert result.code == 1
    assert REFUSED in result.err.splitlines()[-1]
    assert not RECORD.exists()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_doctor_says_so(claimed: None, cli: Cli) -> None:
    result = cli("doctor")
    (line,) = [line for line in result.out.splitlines() if " onnxruntime " in line]
    assert f"with CPU; {REFUSED}" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuse", "ckpt.pth"),
        ("verify", "ckpt.pth", "engines/ckpt/fused.safetensors"),
        ("verify",),
        ("evaluate", "--data", "x.npz"),
    ],
)
def test_a_device_that_is_not_here(pipeline: Cli, arguments: tuple[str, ...]) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a CUDA device")
    np.savez("x.npz", x=np.zeros((4, 3, 32, 32), np.float32), y=np.arange(4))
    result = pipeline(*arguments, "--device", "cuda")
    assert result.code == 1
    assert "torch sees no CUDA device" in result.err
