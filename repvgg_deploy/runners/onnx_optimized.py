"""What ONNX Runtime makes of a graph before it runs it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from ..optional import require
from .onnx_provider import open_session


def optimized(model: Path | bytes, device: str = "cpu") -> ModelProto:
    """The graph that ONNX Runtime runs on ``device``, all optimisations on, as OrtRunner has them.

    Operators of its own are among the nodes. The weights are not read back.

    Raises:
        UserError: there is no such provider here, or the model cannot be loaded.
    """
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # that such a file fits this machine alone is what we are after
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "optimized.onnx")
        options.optimized_model_filepath = str(written)
        # Apart, the weights can be left unread, and those of 2 GiB are no obstacle.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "weights"
        )
        open_session(model, options, device)
        return onnx.load(written, load_external_data=False)
