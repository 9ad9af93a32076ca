"""ONNX Runtime's execution providers: a session runs on the device asked for, or not at all.

Left to itself, ONNX Runtime falls back to the CPU, and only its log says so.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx import TensorProto, helper

from ..errors import UserError
from ..optional import available, install_line, require
from .onnx_errors import in_words

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SETTINGS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}  # fp32 means fp32


def open_session(source: Path | bytes, options: Any, device: str) -> Any:
    """An ``InferenceSession`` on ``device`` (cpu or cuda).

    Raises:
        UserError: ONNX Runtime has no such provider or cannot load it, or refuses the model.
    """
    ort = require("onnxruntime")
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise UserError(f"ONNX Runtime has no {provider} here; run repvgg-deploy doctor.")
    if device != "cpu":
        ort.set_default_logger_severity(4)  # it prints there why a provider does not load
    name, model = ("the model", source) if isinstance(source, bytes) else (source, str(source))
    try:
        session = ort.InferenceSession(
            model, options, providers=[(provider, _SETTINGS[device])], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own exception types have no common root
        raise UserError(f"{name}: ONNX Runtime cannot load it: {in_words(error)}") from error
    if provider not in session.get_providers():
        raise UserError(f"ONNX Runtime cannot load its {provider}: {_cause(ort, provider)}.")
    return session


def why_unusable(device: str) -> str:
    """Why ONNX Runtime cannot run on ``device`` here; empty where it can.

    A provider may be part of the package and not load, so a session is opened.
    """
    ort = available("onnxruntime")
    if ort is None:
        return f"not installed: {install_line('cpu')}"
    if PROVIDERS[device] not in ort.get_available_providers():
        return f"ONNX Runtime has no {PROVIDERS[device]}"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        open_session(_smallest_model(), options, device)
    except UserError as error:
        return str(error).removesuffix(".")
    return ""


def _cause(ort: ModuleType, provider: str) -> str:
    """What the loader of shared libraries says of the provider's own."""
    kind = provider.removesuffix("ExecutionProvider").lower()
    for library in Path(ort.__file__ or "").parent.glob(f"capi/*onnxruntime_providers_{kind}.*"):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return f"{error}; install the CUDA and cuDNN that this release of ONNX Runtime needs"
    return "it gives no reason; see its log, and whether the driver sees the GPU (nvidia-smi)"


def _smallest_model() -> bytes:
    """y = Relu(x), in the oldest format that every release reads."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())
