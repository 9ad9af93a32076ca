"""doctor: what is installed and usable here, and what each command would use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import cast

from ..bench.environment import cpu_name
from ..engine.flavour import choose_flavour
from ..engine.gpu import this_gpu
from ..engine.rtx_api import TensorRTRTX
from ..engine.targets import known_targets
from ..errors import UserError
from ..optional import available, install_line
from ..runners.onnx_provider import PROVIDERS, why_unusable
from .bench_runtimes import runtimes_present


@dataclass(frozen=True)
class Finding:
    """``usable`` None: neither good nor bad; ``remedy``: the line that installs what is missing."""

    part: str
    usable: bool | None
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything that decides what this machine can do."""
    findings = [
        Finding("python", None, f"{platform.python_version()} on {platform.platform()}"),
        Finding("cpu", None, f"{cpu_name()}, {os.cpu_count()} cores"),
        *_torch(),
        _onnxruntime(),
        _openvino(),
        _tensorrt(),
        _rtx(),
        _pycuda(),
        _hub(),
        Finding("bench uses", True, ", ".join(runtimes_present())),
    ]
    try:
        flavour = choose_flavour()
        findings.append(Finding("export --trt uses", True, f"{flavour.name}: {flavour.reason}"))
    except UserError as error:
        findings.append(Finding("export --trt uses", False, f"nothing: {error}"))
    return findings


def _torch() -> list[Finding]:
    torch = available("torch")
    if torch is None:
        return [Finding("torch", False, "does not import here", "pip install torch")]
    cuda = torch.cuda.is_available()
    if cuda:
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        detail = f"{name}, sm{capability[0]}{capability[1]}, CUDA {torch.version.cuda}"
    else:
        detail = "torch sees no CUDA device, so proofs and benchmarks run on the CPU"
    return [Finding("torch", True, str(torch.__version__)), Finding("cuda", cuda, detail)]


def _onnxruntime() -> Finding:
    installed = {name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)}
    if len(installed) == 2:
        return Finding(
            "onnxruntime",
            False,
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && {install_line('gpu')}",
        )
    ort = available("onnxruntime")
    if ort is None:
        return Finding("onnxruntime", False, "not installed", install_line("cpu"))
    providers = list(ort.get_available_providers())
    broken = why_unusable("cuda") if PROVIDERS["cuda"] in providers else ""
    if broken:
        providers.remove(PROVIDERS["cuda"])
    names = ", ".join(provider.removesuffix("ExecutionProvider") for provider in providers)
    found = f"{ort.__version__} with {names}"
    return Finding("onnxruntime", True, f"{found}; {broken}" if broken else found)


def _openvino() -> Finding:
    openvino = available("openvino")
    if openvino is None:
        detail = "not installed; bench measures on it"
        return Finding("openvino", None, detail, install_line("openvino"))
    return Finding("openvino", True, str(openvino.__version__))


def _tensorrt() -> Finding:
    trt = available("tensorrt")
    if trt is None:
        remedy = install_line("tensorrt") if this_gpu() else ""
        return Finding("tensorrt", False, "not installed; it needs an NVIDIA GPU", remedy)
    return Finding("tensorrt", True, str(trt.__version__))


def _rtx() -> Finding:
    trt = available("tensorrt_rtx")
    if trt is None:
        return Finding("tensorrt-rtx", False, "not installed", install_line("rtx"))
    targets = ", ".join(known_targets(cast(TensorRTRTX, trt)))
    return Finding("tensorrt-rtx", True, f"{trt.__version__}, builds for {targets}")


def _pycuda() -> Finding:
    if available("pycuda.driver") is None:
        remedy = "pip install pycuda" if this_gpu() else ""
        return Finding("pycuda", False, "not usable; running engines needs it, and a GPU", remedy)
    return Finding("pycuda", True, "for running engines")


def _hub() -> Finding:
    hub = available("huggingface_hub")
    if hub is None:
        return Finding(
            "huggingface_hub", False, "not installed; fuse hf:... needs it", install_line("hub")
        )
    return Finding("huggingface_hub", True, f"{hub.__version__}, for fuse hf:...")


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
