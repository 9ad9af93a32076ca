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
from .cores import ROOT, affinity, cpu_quota, ranges, read, thread_variables, usable_cores, virtual
from .nvml import nvml_gpu

_PACKAGES = (
    "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxsim", "numpy", "openvino", "tensorrt",
    "tensorrt-rtx-cu13", "pycuda", "nvidia-ml-py",
)  # fmt: skip


def environment(threads: int, root: Path = ROOT) -> dict[str, Any]:
    """JSON-ready; a thing that this machine does not tell is None. See docs/benchmarking.md.

    ``root`` is where /proc and /sys are.
    """
    gpu = this_gpu()
    allowed = affinity()
    return {
        "tool": f"repvgg-deploy {__version__}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(root),
        "affinity": None if allowed is None else ranges(allowed),
        "cpu_quota": cpu_quota(root),
        "virtual": virtual(root),
        "threads": threads,
        "thread_variables": thread_variables(),
        "governor": governor(root),
        "boost": boost(root),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "gpu": None if gpu is None else gpu.name,
        "driver": _driver(),
        "driver_cuda": None if gpu is None else gpu.cuda,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def governor(root: Path = ROOT) -> str | None:
    """The frequency governor of the usable cores; several, with commas, where they differ."""
    folder = root / "sys/devices/system/cpu"
    told = [read(folder / f"cpu{core}/cpufreq/scaling_governor") for core in affinity() or []]
    return ", ".join(sorted({name for name in told if name})) or None


def boost(root: Path = ROOT) -> bool | None:
    """Whether the CPU may go above its nominal clock."""
    folder = root / "sys/devices/system/cpu"
    if (off := read(folder / "intel_pstate/no_turbo")) is not None:
        return off == "0"
    on = read(folder / "cpufreq/boost")
    return None if on is None else on == "1"


def doubts(threads: int, root: Path = ROOT) -> list[str]:
    """What of the environment puts timings on the CPU in doubt; empty where there is nothing."""
    found = []
    if threads > (usable := usable_cores(root)):
        quota = cpu_quota(root)
        why = "the affinity mask" if quota is None else f"a CPU quota of {quota:g}"
        found.append(f"{threads} threads on {usable} usable cores ({why}) stop one another")
    if (name := governor(root)) is not None and name != "performance":
        found.append(f"the CPU's frequency governor is {name}, not performance")
    return found


def cpu_name() -> str:
    """The processor's name, and the widest vector instructions that torch uses on it."""
    lines = (read(ROOT / "proc/cpuinfo") or "").splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(named, platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    with nvml_gpu() as gpu:
        return None if gpu is None else gpu.driver()
