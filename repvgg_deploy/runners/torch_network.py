"""A torch module as a runner, on the CPU or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
        self._network: Callable[[Tensor], Tensor] = network.to(device).eval()
        self._device, self._dtype = device, next(network.parameters()).dtype

    @torch.inference_mode()
    def load(self, batch: Array) -> None:
        self._input = torch.from_numpy(batch).to(self._device, self._dtype)

    @torch.inference_mode()
    def step(self) -> float | None:
        """On a GPU, seconds between two events on its stream."""
        if self._device.type != "cuda":
            self._output = self._forward()
            return None
        with torch.cuda.device(self._device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            self._output = self._forward()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def _forward(self) -> Tensor:
        return self._network(self._input)

    def output(self) -> NDArray[np.float64]:
        return np.asarray(self._output.double().cpu().numpy())


class TorchCudaRunner(TorchRunner):
    """The same on a GPU, with its transfers measured apart, from and to page-locked memory."""

    @torch.inference_mode()
    def transfer(self) -> float:
        there = self._input.cpu().pin_memory()
        back = self._output.cpu().pin_memory()
        torch.cuda.synchronize(self._device)
        begin = time.perf_counter()
        self._input.copy_(there, non_blocking=True)
        back.copy_(self._output, non_blocking=True)
        torch.cuda.synchronize(self._device)
        return time.perf_counter() - begin
