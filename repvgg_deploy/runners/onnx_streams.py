"""An ONNX model on ONNX Runtime, several batches at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .onnx_runtime import OrtRunner

#: Batches that each thread gets in a step: the last ones leave threads idle.
_EACH = 4


class OrtStreams(OrtRunner):
    """``threads`` batches in flight on the CPU, each computed by one thread.

    A step's seconds are those of one batch among them.
    """

    def __init__(self, model: Path | bytes, threads: int, optimize: bool = True) -> None:
        super().__init__(model, "cpu", 1, optimize)
        self._pool = ThreadPoolExecutor(threads)
        self._count = _EACH * threads

    def step(self) -> float | None:
        one_batch, begin = super().step, time.perf_counter()
        for future in [self._pool.submit(one_batch) for _ in range(self._count)]:
            future.result()
        return (time.perf_counter() - begin) / self._count
