"""What a timing depends on: machine, clocks, load and versions."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..engine.gpu import this_gpu

_PACKAGES = (
    "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxsim", "numpy", "tensorrt",
    "tensorrt-rtx-cu13", "pycuda",
)  # fmt: skip


def environment(threads: int) -> dict[str, Any]:
    """JSON-ready; a thing that this machine does not tell is None."""
    gpu = this_gpu()
    return {
        "tool": f"repvgg-deploy {__version__}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "gpu": None if gpu is None else gpu.name,
        "driver_cuda": None if gpu is None else gpu.cuda,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def cpu_name() -> str:
    """The processor's name, and the widest vector instructions that torch uses on it."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(named, platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
