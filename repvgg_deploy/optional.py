"""Packages that an extra installs: imported on first use, or named with the line to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import UserError

#: module -> (extra that brings it, what it is for)
EXTRAS = {
    "onnxruntime": ("cpu", "running ONNX models (use the extra gpu instead on an NVIDIA GPU)"),
    "tensorrt_rtx": ("rtx", "building TensorRT-RTX engines, on a machine with or without a GPU"),
    "tensorrt": ("tensorrt", "building and running TensorRT engines on this machine's GPU"),
    "pycuda": ("tensorrt", "running engines"),
    "ml_dtypes": ("tensorrt", "engines whose inputs or outputs are bfloat16 or float8"),
    "openvino": ("openvino", "measuring on OpenVINO"),
    "matplotlib": ("report", "the plots of a report"),
    "jinja2": ("report", "the layout of a report"),
    "lightning_fabric": ("train", "training"),
    "huggingface_hub": ("hub", "checkpoints from the Hugging Face hub"),
}


def install_line(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "repvgg-deploy[{extra}]"'


def available(module: str) -> ModuleType | None:
    """The module, or None where it is not installed or does not import here."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError):
        return None


def require(module: str) -> ModuleType:
    """The module, or a UserError that names the extra to install."""
    found = available(module)
    if found is None:
        extra, purpose = EXTRAS[module]
        raise UserError(f"{module} is not installed; for {purpose}: {install_line(extra)}")
    return found
