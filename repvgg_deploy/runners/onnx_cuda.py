"""An ONNX model on ONNX Runtime's CUDA provider, its input and output kept on the GPU."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..optional import require
from .onnx_runtime import OrtRunner
from .protocol import Array


class OrtCudaRunner(OrtRunner):
    """Steps hold no transfers: those are measured apart.

    ONNX Runtime works in a stream of its own, so its steps are timed by the host's clock from the
    call to the end of all work.
    """

    def __init__(self, model: Path | bytes, optimize: bool = True) -> None:
        super().__init__(model, "cuda", optimize=optimize)

    def load(self, batch: Array) -> None:
        super().load(batch)
        (self._host,) = self._feed.values()
        value = require("onnxruntime").OrtValue.ortvalue_from_numpy(self._host, "cuda", 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._input.name, value)
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name, "cuda", 0)
        self._placed = value

    def step(self) -> float | None:
        with self._in_words():
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        return None

    def output(self) -> NDArray[np.float64]:
        return np.asarray(self._binding.copy_outputs_to_cpu()[0], dtype=np.float64)

    def transfer(self) -> float:
        begin = time.perf_counter()
        self._placed.update_inplace(self._host)
        self._binding.copy_outputs_to_cpu()
        return time.perf_counter() - begin
