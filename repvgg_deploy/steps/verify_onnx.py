"""verify, of an exported ONNX model against weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ..equivalence.compare import compare
from ..errors import RepvggDeployError
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import run
from .against_weights import check_channels, pick_samples, run_weights
from .verdict import Verdict
from .weights import WeightsFile


def verify_onnx(
    reference: WeightsFile, candidate: OnnxInfo, device: torch.device, images: Path | None
) -> Verdict:
    network, precision = reference.network, candidate.precision
    check_channels(network, reference.path, candidate.channels, candidate.path)
    image = (candidate.channels, candidate.height, candidate.width)
    samples, batch = pick_samples(
        candidate.path, image, candidate.batch or 1, candidate.batch, images
    )
    truth, own = run_weights(network, precision, device, samples)
    try:
        output = run(OrtRunner(_runnable(candidate)), samples, batch)
        end_to_end = compare("end to end", truth, own, output, precision)
    except RepvggDeployError as error:
        raise _naming(candidate.path, error) from error
    return Verdict(reference.path, candidate.path, end_to_end, None, str(device))


def _runnable(model: OnnxInfo) -> Path | bytes:
    if model.precision != "bf16":
        return model.path
    wide: bytes = widened(load_model(model.path)).SerializeToString()
    return wide


def _naming(path: Path, error: RepvggDeployError) -> RepvggDeployError:
    """``error`` with the file it is about, unless it names that already."""
    return error if str(error).startswith(str(path)) else type(error)(f"{path}: {error}")
