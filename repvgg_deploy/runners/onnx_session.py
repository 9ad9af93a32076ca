"""An ONNX model of any inputs and outputs on ONNX Runtime's CPU provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..optional import require
from .onnx_errors import in_words

#: ONNX Runtime's names of element types that noise can be made of.
FLOAT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}

Arrays = dict[str, NDArray[Any]]


class OrtSession:
    """``inputs`` is what the model asks for: (name, element type, dimensions) each.

    ``changed`` is run in place of what ``path`` holds; its external data lies beside ``path``.
    The graph runs as it stands: the optimiser of ONNX Runtime folds batch norms itself, and what
    goes wrong there would count as the model's own rounding. ``for_threads`` is for many images,
    where speed counts more: the optimised graph, each run on the thread that calls it, so that
    several can call at a time.
    """

    def __init__(
        self, path: Path, changed: bytes | None = None, *, for_threads: bool = False
    ) -> None:
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
        if for_threads:
            options.graph_optimization_level = levels.ORT_ENABLE_ALL
            options.intra_op_num_threads = 1
        options.log_severity_level = 4  # errors come back as exceptions, and we put them in words
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent.absolute())
        )
        self._path = path
        try:
            self._session = ort.InferenceSession(
                str(path) if changed is None else changed,
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's own exception types have no common root
            raise UserError(f"{path}: ONNX Runtime cannot load it: {in_words(error)}") from error
        self.inputs: list[tuple[str, str, list[int | str | None]]] = [
            (value.name, value.type, list(value.shape)) for value in self._session.get_inputs()
        ]
        for value in self._session.get_outputs():
            if not value.type.startswith("tensor("):
                raise UserError(
                    f"{path}: its output {value.name!r} is a {value.type}; only models whose "
                    "outputs are tensors can be proved."
                )
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name; UserError where the model does not take these inputs.

        Float inputs are cast to the model's own float types.
        """
        kinds = {name: kind for name, kind, _ in self.inputs}
        feed = {
            name: values.astype(FLOAT_TYPES.get(kinds.get(name, ""), values.dtype))
            for name, values in inputs.items()
        }
        try:
            outputs = self._session.run(None, feed)
        except Exception as error:
            raise UserError(
                f"{self._path}: ONNX Runtime cannot run it: {in_words(error)}"
            ) from error
        return dict(zip(self._outputs, outputs, strict=True))
