"""What is asked of an engine build, checked before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ..artifacts import QuantizedArtifact
from ..engine.flavour import Flavour, check_supported
from ..engine.options import BuildOptions
from ..engine.rtx_api import TensorRTRTX
from ..engine.targets import check_targets, known_targets
from ..errors import UserError
from ..files import sha256_file
from ..sidecar import read_sidecar, recorded_source
from ..workspace import ModelFolder


def check_request(
    flavour: Flavour, precision: str, options: BuildOptions, timing_cache: Path | None
) -> None:
    """Refuse what cannot be built from a classification network, before any work is done.

    Raises:
        UserError: an option that the flavour lacks, or a target that lacks the precision.
    """
    check_supported(flavour, options, timing_cache)
    if flavour.name == "rtx":
        known = known_targets(cast(TensorRTRTX, flavour.trt))
        types = {precision} - {"int8"}  # of an int8 network the float type is not known yet
        check_targets(known, options.targets, types, types, flavour.version)


def quantized_onnx(folder: ModelFolder, precision: str) -> Path:
    """The Q/DQ model of a folder, which an int8 or fp8 engine is built from.

    Raises:
        UserError: there is none, or it was made from other weights than the folder holds.
    """
    path = folder.onnx(precision)
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --trt {precision} takes a Q/DQ ONNX model: "
            + (
                "run repvgg-deploy quantize --calib DIR first, or give --calib here."
                if precision == "int8"
                else f"put one of your own there, or name it: export MODEL.onnx --trt {precision}."
            )
        )
    if recorded_source(path) is not None:
        made_from = read_sidecar(path, QuantizedArtifact).source
        if made_from.sha256 != sha256_file(folder.fused):
            raise UserError(
                f"{path}: was made from other weights than {folder.fused} holds; quantize again."
            )
    return path
