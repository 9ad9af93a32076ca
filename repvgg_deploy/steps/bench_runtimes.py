"""bench: which runtimes are here, and an entrant on one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from onnx import ModelProto

from ..bench.memory import Device
from ..bench.record import on_gpu
from ..errors import UserError
from ..optional import EXTRAS, available, install_line
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_cuda import OrtCudaRunner
from ..runners.onnx_provider import why_unusable
from ..runners.onnx_runtime import OrtRunner
from ..runners.onnx_streams import OrtStreams
from ..runners.openvino import OpenVinoRunner
from ..runners.protocol import Runner
from ..runners.torch_modes import (
    CompiledCudaRunner,
    CompiledRunner,
    CudaGraphRunner,
    cpp_compiler,
)
from ..runners.torch_network import TorchCudaRunner, TorchRunner
from .bench_engines import engine_runtimes
from .bench_subjects import Entrant

TORCH_RUNTIMES = {
    "torch-cpu": TorchRunner,
    "torch-compile-cpu": CompiledRunner,
    "torch-cuda": TorchCudaRunner,
    "torch-compile-cuda": CompiledCudaRunner,
    "cuda-graphs": CudaGraphRunner,
}
ONNX_RUNTIMES = ("onnxruntime-cpu", "onnxruntime-cuda", "openvino")
ENGINE_RUNTIMES = ("tensorrt", "rtx")
RUNTIMES = (*TORCH_RUNTIMES, *ONNX_RUNTIMES, *ENGINE_RUNTIMES)
#: Whose memory they take besides the host's.
DEVICES: dict[str, Device] = {
    "torch-cuda": "torch",
    "torch-compile-cuda": "torch",
    "cuda-graphs": "torch",
    "onnxruntime-cuda": "whole",
}
#: Compiles for half a minute or longer for each network and batch size on the CPU.
ON_REQUEST = ("torch-compile-cpu",)
#: Those that can keep several batches in flight.
IN_FLIGHT = ("onnxruntime-cpu", "openvino")


def runtimes_present() -> list[str]:
    """The runtimes that can measure here, in the order of RUNTIMES."""
    missing = runtimes_missing()
    return [name for name in RUNTIMES if name not in missing]


def runtimes_missing() -> dict[str, str]:
    """The runtimes that cannot measure here, and why."""
    missing: dict[str, str] = {}
    if cpp_compiler() is None:
        missing["torch-compile-cpu"] = "torch.compile needs a C++ compiler, such as g++"
    if not torch.cuda.is_available():
        cuda = ("torch-cuda", "torch-compile-cuda", "cuda-graphs", "onnxruntime-cuda")
        missing |= dict.fromkeys(cuda, "torch sees no CUDA device")
    for name, device in (("onnxruntime-cpu", "cpu"), ("onnxruntime-cuda", "cuda")):
        if name not in missing and (why := why_unusable(device)):
            missing[name] = why
    if available("openvino") is None:
        missing["openvino"] = f"not installed: {install_line(EXTRAS['openvino'][0])}"
    engines = engine_runtimes()
    missing |= {name: "no GPU, or no pycuda" for name in ENGINE_RUNTIMES if name not in engines}
    return missing


def missing_note() -> str | None:
    """One line on the runtimes that are not here and that this machine could have."""
    missing = runtimes_missing()
    no_gpu = "torch-cuda" in missing
    parts = [
        f"{name} ({why})"
        for name, why in missing.items()
        if not on_gpu(name) or (name == "onnxruntime-cuda" and not no_gpu)
    ]
    if no_gpu:
        parts.append("those of NVIDIA GPUs (torch sees none)")
    return f"runtimes that are not here: {'; '.join(parts)}" if parts else None


def pick_runtimes(asked: Sequence[str]) -> list[str]:
    """Those asked for, or all that are here but ON_REQUEST; UserError where one is not here."""
    missing = runtimes_missing()
    for name in asked:
        if name in missing:
            usable = ", ".join(runtimes_present())
            raise UserError(
                f"runtime {name}: not usable here; usable are {usable} ({missing[name]})."
            )
    return list(asked) or [name for name in runtimes_present() if name not in ON_REQUEST]


def opener(
    runtime: str, entrant: Entrant, threads: int, in_flight: bool
) -> Callable[[], Runner] | None:
    """Makes a runner of the entrant, not of an engine; None: it does not run on that runtime.

    ``in_flight``: with several batches at a time, where the runtime can.
    """
    if kind := TORCH_RUNTIMES.get(runtime):
        device = torch.device("cpu" if runtime.endswith("cpu") else "cuda")
        return None if entrant.network is None else lambda: kind(entrant.module(), device)
    graph = entrant.graph
    if runtime not in ONNX_RUNTIMES or graph is None:
        return None

    def open_onnx() -> Runner:
        model = graph()
        wide = entrant.subject.precision == "bf16" and runtime != "onnxruntime-cuda"
        if wide:
            read = load_model(model) if isinstance(model, Path) else ModelProto.FromString(model)
            model = bytes(widened(read).SerializeToString())
        if runtime == "openvino":
            return OpenVinoRunner(model, threads, in_flight)
        if runtime == "onnxruntime-cuda":
            return OrtCudaRunner(model)
        return OrtStreams(model, threads) if in_flight else OrtRunner(model, "cpu", threads)

    return open_onnx
