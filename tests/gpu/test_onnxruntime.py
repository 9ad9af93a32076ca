"""ONNX Runtime's CUDA provider, where it is installed."""

from __future__ import annotations

import pytest
import torch

from repvgg_deploy.equivalence.compare import compare
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.runners.onnx_runtime import OrtRunner
from repvgg_deploy.runners.protocol import run
from repvgg_deploy.runners.torch_network import TorchRunner, exact_math
from repvgg_deploy.steps.bench_subjects import FUSED, RAW

from .networks import NAMES, forms
from .parts import no_onnxruntime


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_model_on_the_cuda_provider(name: str) -> None:
    if (reason := no_onnxruntime()) is not None:
        pytest.skip(reason)
    networks, samples, cuda = forms(name), probe_inputs(3, 64, 64), torch.device("cuda")
    output = run(OrtRunner(to_onnx(networks[FUSED], (64, 64)).SerializeToString(), "cuda"), samples)
    with exact_math():
        own = run(TorchRunner(networks[RAW], cuda), samples)
        truth = run(TorchRunner(networks[RAW].double(), cuda), samples)
    comparison = compare("end to end", truth, own, output)
    assert comparison.passed, comparison.reason
