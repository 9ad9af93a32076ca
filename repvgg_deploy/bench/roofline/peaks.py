"""The fastest that torch multiplies matrices and copies memory on this device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...runners.torch_network import no_tf32
from ..cores import usable_cores

Product = Callable[[], object]

#: Seconds for which each is repeated, and how often at least; the fastest counts.
_SECONDS, _REPEATS = 0.3, 4
#: Of the matrices, on each device.
_SIDE = {"cpu": 2048, "cuda": 8192}
#: Bytes to copy: far beyond any cache.
_COPIED = 512 << 20
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Peaks:
    """``macs`` are multiply-adds a second by precision (fp32, fp16, bf16, int8), of those that
    torch has products of here; ``bytes`` are a second's of a copy, those read and those written
    together. ``granted`` is the least share of the time that the threads ran for in any of the
    fastest runs: others had the rest of the CPU. None on a GPU.
    """

    macs: dict[str, float]
    bytes: float
    granted: float | None


@dataclass(frozen=True)
class Run:
    """``seconds`` by the clock, and by the CPU's account over all threads."""

    seconds: float
    cpu: float


def measure_peaks(device: str, threads: int) -> Peaks:
    """Measure now: some seconds. Memory: 1 GiB on the device.

    A product is of two square matrices: 2048 a side on a CPU, 8192 on a GPU, float32 without
    TF32. On a CPU float32 is multiplied by torch's BLAS and by oneDNN, and the faster counts: MKL
    runs slower kernels on processors that are not Intel's, by a factor of three where we met it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), no_tf32():
            side = _SIDE[device]
            best = {"fp32": _fastest("fp32", side, device)}
            for precision in ("fp16", "bf16", "int8"):
                if _is_native(precision, side // 8, device):
                    best[precision] = _fastest(precision, side, device)
            copy = _copy(device)
    finally:
        torch.set_num_threads(before)
    usable = min(threads, usable_cores())
    granted = min(run.cpu / run.seconds / usable for run in (*best.values(), copy))
    return Peaks(
        {precision: side**3 / run.seconds for precision, run in best.items()},
        2 * _COPIED / copy.seconds,
        granted if device == "cpu" else None,
    )


def fastest(step: Callable[[], object], device: str) -> Run:
    """Of several runs, after one that warms up."""
    _timed(step, device)
    start, runs = time.perf_counter(), list[Run]()
    while len(runs) < _REPEATS or time.perf_counter() - start < _SECONDS:
        runs.append(_timed(step, device))
    return min(runs, key=lambda run: run.seconds)


def _timed(step: Callable[[], object], device: str) -> Run:
    cpu, begin = time.process_time(), time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return Run(time.perf_counter() - begin, time.process_time() - cpu)


def _products(precision: str, side: int, device: str) -> list[Product]:
    """The ways to multiply two square matrices of random numbers."""
    if precision == "int8":  # the second transposed, as every library has it
        a, b = (_integers(side, device), _integers(side, device).t())
        return [lambda: torch._int_mm(a, b)]
    a, b = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    ways: list[Product] = [lambda: torch.mm(a, b)]
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device == "cpu" and precision == "fp32" and onednn:
        blocked = a.to_mkldnn()
        ways.append(lambda: F.linear(blocked, b))
    return ways


def _integers(side: int, device: str) -> Tensor:
    return torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device)


def _fastest(precision: str, side: int, device: str) -> Run:
    """The fastest run of the fastest way."""
    runs = [fastest(way, device) for way in _products(precision, side, device)]
    return min(runs, key=lambda run: run.seconds)


def _is_native(precision: str, side: int, device: str) -> bool:
    """Whether a small product takes less than twice the time of fp32's. Where it takes more it is
    emulated (a large one for minutes, on some processors), and runtimes compute in fp32."""
    try:
        seconds = _fastest(precision, side, device).seconds
    except RuntimeError:  # torch has no such product here
        return False
    return seconds < 2 * _fastest("fp32", side, device).seconds


def _copy(device: str) -> Run:
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return fastest(lambda: target.copy_(source), device)
