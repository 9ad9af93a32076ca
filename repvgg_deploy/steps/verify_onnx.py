"""verify, of an exported ONNX model against weights."""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import ModelProto

from ..equivalence.compare import compare
from ..errors import RepvggDeployError
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import run
from .against_weights import check_channels, pick_samples, run_weights
from .carried import check_exported, made_from
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
    model = load_model(candidate.path)
    weights = check_exported(reference, model, made_from(candidate.path, reference.path))
    try:
        output = run(OrtRunner(_runnable(candidate, model)), samples, batch)
        end_to_end = compare("end to end", truth, own, output, precision)
    except RepvggDeployError as error:
        raise _naming(candidate.path, error) from error
    return Verdict(reference.path, candidate.path, end_to_end, None, str(device), weights=weights)


def _runnable(info: OnnxInfo, model: ModelProto) -> Path | bytes:
    if info.precision != "bf16":
        return info.path
    wide: bytes = widened(model).SerializeToString()
    return wide


def _naming(path: Path, error: RepvggDeployError) -> RepvggDeployError:
    """``error`` with the file it is about, unless it names that already."""
    return error if str(error).startswith(str(path)) else type(error)(f"{path}: {error}")
