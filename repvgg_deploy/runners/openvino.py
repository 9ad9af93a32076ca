"""An ONNX model on OpenVINO, on the CPU."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..optional import require
from .protocol import Array

#: Batches that each stream gets in a step of several in flight: the last ones leave threads idle.
_EACH = 4


@cache
def _core() -> Any:
    """One for the process, never released. On processors with AMX its CPU plug-in gives the thread
    that loads it another signal stack, and frees that with the plug-in: where another thread
    releases it, the next signal (Ctrl-C) is a crash (seen with OpenVINO 2026.4.1)."""
    return require("openvino").Core()


class OpenVinoRunner:
    """Compiled for the exact shape of each batch, so ``load`` compiles. ``threads`` 0: its own
    choice.

    Floats are computed in float32 (``INFERENCE_PRECISION_HINT``): left to itself OpenVINO takes
    bfloat16 where the processor has it. With ``in_flight`` it may run several batches at a time
    (``PERFORMANCE_HINT``), and a step's seconds are those of one batch among them.
    """

    def __init__(self, model: Path | bytes, threads: int = 0, in_flight: bool = False) -> None:
        self._openvino = require("openvino")
        self._name = "the model" if isinstance(model, bytes) else str(model)
        self._options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "THROUGHPUT" if in_flight else "LATENCY",
        }
        self._core = _core()
        try:
            self._model = self._core.read_model(model if isinstance(model, bytes) else str(model))
        except RuntimeError as error:
            raise self._failed("cannot read it", error) from error
        self.runtime = "openvino (cpu)"
        self._in_flight = in_flight
        self.compile_seconds = 0.0

    def load(self, batch: Array) -> None:
        begin = time.perf_counter()
        try:
            self._model.reshape(list(batch.shape))
            compiled = self._core.compile_model(self._model, "CPU", self._options)
            self._queue = self._openvino.AsyncInferQueue(compiled, 0 if self._in_flight else 1)
        except RuntimeError as error:
            raise self._failed("cannot compile it", error) from error
        self.compile_seconds = time.perf_counter() - begin
        self._input = batch.astype(compiled.input(0).element_type.to_dtype())
        for request in self._queue:
            request.set_input_tensor(self._openvino.Tensor(self._input))

    def step(self) -> float | None:
        try:
            if not self._in_flight:
                self._queue[0].infer()
                return None
            count, begin = _EACH * len(self._queue), time.perf_counter()
            for _ in range(count):
                self._queue.start_async()
            self._queue.wait_all()
            return (time.perf_counter() - begin) / count
        except RuntimeError as error:
            raise self._failed("cannot run it", error) from error

    def output(self) -> NDArray[np.float64]:
        return np.asarray(self._queue[0].get_output_tensor(0).data, dtype=np.float64)

    def _failed(self, what: str, error: Exception) -> UserError:
        """OpenVINO's last line says what is wrong; those before it are places in its source."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else "it says nothing"
        return UserError(f"{self._name}: OpenVINO {what}: {reason}")
