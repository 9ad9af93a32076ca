"""verify, of an exported ONNX model against weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.samples import load_samples
from ..equivalence.compare import compare
from ..equivalence.samples import probe_inputs
from ..errors import UserError
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math
from .verdict import Verdict
from .weights import TORCH_DTYPE, WeightsFile


def verify_onnx(
    reference: WeightsFile, candidate: OnnxInfo, device: torch.device, images: Path | None
) -> Verdict:
    network = reference.network
    if network.spec.in_channels != candidate.channels:
        raise UserError(
            f"{candidate.path}: takes images of {candidate.channels} channels and "
            f"{reference.path} of {network.spec.in_channels}; these are two networks."
        )
    samples = _samples_for(candidate, images)
    precision = candidate.precision
    with exact_math():
        truth = run(TorchRunner(network.build(torch.float64), device), samples)
        own = run(TorchRunner(network.build(TORCH_DTYPE[precision]), device), samples)
    try:
        output = run(OrtRunner(_runnable(candidate)), samples, candidate.batch)
        end_to_end = compare("end to end", truth, own, output, precision)
    except UserError as error:
        raise _naming(candidate.path, error) from error
    return Verdict(reference.path, candidate.path, end_to_end, None, str(device))


def _runnable(model: OnnxInfo) -> Path | bytes:
    if model.precision != "bf16":
        return model.path
    wide: bytes = widened(load_model(model.path)).SerializeToString()
    return wide


def _naming(path: Path, error: UserError) -> UserError:
    """``error`` with the file it is about, unless it names that already."""
    return error if str(error).startswith(str(path)) else UserError(f"{path}: {error}")


def _samples_for(info: OnnxInfo, images: Path | None) -> NDArray[np.float32]:
    """Inputs of the model's own shape; for a fixed batch, a whole number of batches."""
    if images is None:
        count = 8 if info.batch is None else info.batch * -(-8 // info.batch)
        return probe_inputs(info.channels, info.height, info.width, count)
    samples = load_samples(images, info.channels)
    if samples.shape[2:] != (info.height, info.width):
        raise UserError(f"{images}: {info.path} takes images of {info.height}x{info.width} pixels.")
    usable = len(samples) - len(samples) % (info.batch or 1)
    if usable == 0:
        raise UserError(f"{images}: {info.path} takes {info.batch} images at once; give that many.")
    return samples[:usable]
