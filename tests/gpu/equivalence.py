"""Fused against unfused on a device, each measured from the float64 truth."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from repvgg_deploy.equivalence.compare import Comparison, compare
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.runners.protocol import run
from repvgg_deploy.runners.torch_network import TorchRunner, exact_math
from repvgg_deploy.steps.bench_subjects import FUSED, RAW

from .networks import DTYPES


@contextmanager
def tf32() -> Iterator[None]:
    """What torch does where it may round the inputs of float32 convolutions."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        with torch.inference_mode():
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def equivalence(
    networks: dict[str, RepVGG], precision: str, device: torch.device, size: int = 64
) -> Comparison:
    """The fused network's distance to the truth, against the unfused one's in that precision."""
    samples = probe_inputs(3, size, size)
    with exact_math():
        truth = run(TorchRunner(copy.deepcopy(networks[RAW]).double(), device), samples)
    with tf32() if precision == "tf32" else exact_math():
        own, fused = (
            run(TorchRunner(copy.deepcopy(networks[form]).to(DTYPES[precision]), device), samples)
            for form in (RAW, FUSED)
        )
    return compare("end to end", truth, own, fused, precision)
