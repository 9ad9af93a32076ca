"""A torch module as a runner, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import UserError
from .protocol import Array


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where torch can use one, else the CPU; else the named device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch sees no CUDA device here; use --device cpu.")
    return torch.device(name)


@contextmanager
def no_tf32() -> Iterator[None]:
    """float32 means float32 on a GPU too; torch lets cuDNN use TF32 unless told otherwise."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def exact_math() -> Iterator[None]:
    """For proofs: no TF32, and cuDNN's deterministic algorithms; settings are put back after."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with no_tf32(), torch.inference_mode():
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class TorchRunner:
    """A network in eval mode, moved to ``device``; inputs are cast to the dtype it has."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.runtime = f"torch ({device.type})"
        self._network = network.to(device).eval()
        self._device, self._dtype = device, next(network.parameters()).dtype

    @torch.inference_mode()
    def load(self, batch: Array) -> None:
        self._input = torch.from_numpy(batch).to(self._device, self._dtype)

    @torch.inference_mode()
    def step(self) -> None:
        self._output = self._network(self._input)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def output(self) -> NDArray[np.float64]:
        return np.asarray(self._output.double().cpu().numpy())
