"""Which TensorRT builds the engine: TensorRT for this machine's GPU, or RTX ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from ..errors import UserError
from ..optional import available, install_line

#: TensorRT-RTX targets that cannot run a float32 matrix product ("not supported for Turing").
_NO_FP32_GEMM = {"sm75"}


class NoTensorRT(UserError):
    """No TensorRT is installed that can build an engine here."""


@dataclass(frozen=True)
class Flavour:
    """``name`` is tensorrt or rtx; ``reason`` says why it was chosen."""

    name: str
    module: ModuleType
    reason: str

    @property
    def version(self) -> str:
        return str(self.module.__version__)


def has_gpu() -> bool:
    """Whether torch can reach a CUDA device; TensorRT builds for the GPU that it runs on."""
    torch = available("torch")
    return torch is not None and bool(torch.cuda.is_available())


def choose_flavour() -> Flavour:
    """TensorRT where it is installed with a GPU, else TensorRT-RTX.

    Raises:
        NoTensorRT: neither can build here.
    """
    tensorrt = available("tensorrt")
    if tensorrt is not None and has_gpu():
        return Flavour("tensorrt", tensorrt, "TensorRT is installed and this machine has a GPU")
    rtx = available("tensorrt_rtx")
    if rtx is not None:
        missing = "TensorRT is not installed" if tensorrt is None else "this machine has no GPU"
        return Flavour("rtx", rtx, f"{missing}, so TensorRT-RTX builds the engine; it needs no GPU")
    raise NoTensorRT(
        "no TensorRT can build an engine here, so the ONNX model is all that was made; to build "
        f"without a GPU: {install_line('rtx')} (with one: {install_line('tensorrt')})."
    )


def rtx_targets(trt: ModuleType) -> list[str]:
    """Every compute capability this TensorRT-RTX can build for, e.g. ``sm86``."""
    names = trt.ComputeCapability.__members__
    return [name.lower() for name in names if name.startswith("SM")]


def pick_targets(trt: ModuleType, precision: str, asked: list[str]) -> list[str]:
    """The targets asked for, or all that the precision allows.

    Raises:
        UserError: an unknown target, or one that cannot run the precision.
    """
    known = rtx_targets(trt)
    unable = _NO_FP32_GEMM if precision == "fp32" else set()
    for target in asked:
        if target not in known:
            raise UserError(
                f"target {target}: TensorRT-RTX {trt.__version__} builds for {', '.join(known)}."
            )
        if target in unable:
            raise UserError(
                f"target {target}: TensorRT-RTX has no float32 matrix product for it; "
                "use --trt fp16, or leave the target out."
            )
    return asked or [target for target in known if target not in unable]
