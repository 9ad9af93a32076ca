"""Which TensorRT builds the engine: TensorRT for this machine's GPU, or RTX ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..errors import UserError
from ..optional import available, install_line
from .gpu import Gpu, this_gpu
from .module import TensorRT
from .names import MODULES
from .options import BuildOptions


class NoTensorRT(UserError):
    """No TensorRT is installed that can build an engine here."""


@dataclass(frozen=True)
class Flavour:
    """``name`` is tensorrt or rtx; ``reason`` says why it was chosen; ``gpu`` is this machine's."""

    name: str
    trt: TensorRT
    reason: str
    gpu: Gpu | None

    @property
    def module(self) -> str:
        return MODULES[self.name]

    @property
    def version(self) -> str:
        return self.trt.__version__


def choose_flavour(asked: str = "auto") -> Flavour:
    """The flavour asked for; ``auto``: TensorRT where it is installed with a GPU, else RTX.

    Raises:
        NoTensorRT: none can build here, or not the one asked for.
    """
    tensorrt, rtx, gpu = available("tensorrt"), available("tensorrt_rtx"), this_gpu()
    if asked == "tensorrt" and tensorrt is None:
        raise NoTensorRT(f"TensorRT is not installed; {install_line('tensorrt')}.")
    if asked == "tensorrt" and gpu is None:
        raise NoTensorRT(
            "TensorRT builds for the GPU of the machine, and CUDA finds none here; build there, or "
            "use --flavour rtx, which needs none."
        )
    if asked == "rtx" and rtx is None:
        raise NoTensorRT(f"TensorRT-RTX is not installed; {install_line('rtx')}.")
    if asked != "rtx" and tensorrt is not None and gpu is not None:
        reason = f"TensorRT is installed and builds for this machine's {gpu.name}"
        return Flavour("tensorrt", cast(TensorRT, tensorrt), reason, gpu)
    if rtx is not None:
        return Flavour("rtx", cast(TensorRT, rtx), _why_rtx(asked, tensorrt is None), gpu)
    raise NoTensorRT(
        "no TensorRT can build an engine here; to build without a GPU: "
        f"{install_line('rtx')} (with one: {install_line('tensorrt')})."
    )


def _why_rtx(asked: str, tensorrt_missing: bool) -> str:
    if asked == "rtx":
        return "as asked for"
    missing = "TensorRT is not installed" if tensorrt_missing else "this machine has no GPU"
    return f"{missing}, so TensorRT-RTX builds the engine; it needs no GPU"


def check_supported(flavour: Flavour, options: BuildOptions, timing_cache: Path | None) -> None:
    """Refuse options that the flavour does not have.

    Raises:
        UserError: the first of them, and what to do.
    """
    if flavour.name == "tensorrt":
        if options.targets:
            raise UserError("--target is for TensorRT-RTX; TensorRT builds for this machine's GPU.")
        return
    if options.version_compatible:
        raise UserError(
            "--version-compatible: a TensorRT-RTX engine loads in the version that built it only; "
            "leave it out."
        )
    if options.hardware_compatible:
        raise UserError(
            "--hardware-compatible: a TensorRT-RTX engine runs on the GPUs of --target; name them "
            "there, or leave both out for all."
        )
    if timing_cache is not None:
        raise UserError(
            "--timing-cache: TensorRT-RTX measures no kernels when it builds, so it has none; "
            "leave it out."
        )
