"""An ONNX model on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..optional import require
from .onnx_errors import in_words
from .onnx_provider import open_session
from .protocol import Array

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OrtRunner:
    """One session. ``threads`` 0: as many as ONNX Runtime likes.

    ``optimize`` False: the graph runs as it stands, which a quantized one has to: what ONNX
    Runtime makes of Q/DQ nodes moves their results by whole steps.
    """

    def __init__(
        self, model: Path | bytes, device: str = "cpu", threads: int = 0, optimize: bool = True
    ) -> None:
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # errors come back as exceptions, and we put them in words
        # Threads of an idle session would go on spinning after its run and slow the next session
        # down threefold: measured interleaved, every network would look as slow as that.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._name = "the model" if isinstance(model, bytes) else str(model)
        self._session = open_session(model, options, device)
        self.runtime = f"onnxruntime ({device})"
        (self._input,) = self._session.get_inputs()
        self._dtype = _DTYPES[self._input.type]

    def load(self, batch: Array) -> None:
        self._feed = {self._input.name: batch.astype(self._dtype)}

    def step(self) -> float | None:
        with self._in_words():
            (self._logits,) = self._session.run(None, self._feed)
        return None

    def output(self) -> NDArray[np.float64]:
        return np.asarray(self._logits, dtype=np.float64)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # ONNX Runtime's own exception types have no common root
            raise UserError(
                f"{self._name}: ONNX Runtime cannot run it: {in_words(error)}"
            ) from error
