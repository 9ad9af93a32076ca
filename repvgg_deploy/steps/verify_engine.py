"""verify, of an engine: what it computes on this machine's GPU, against where it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine.load import CheckedEngine
from ..equivalence.compare import UNIT_ROUNDOFF, Comparison, compare
from ..errors import RepvggDeployError, UserError
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo
from ..runners.onnx_reference import OnnxFloat64
from ..runners.onnx_session import OrtSession
from ..runners.protocol import run
from ..runners.tensorrt.runner import EngineRunner
from ..runners.tensorrt.tensors import EngineTensor
from .against_weights import check_channels, pick_samples, run_weights
from .weights import TORCH_DTYPE, WeightsFile

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

Array = NDArray[np.float64]


def compare_engine(
    reference: WeightsFile | OnnxInfo,
    file: CheckedEngine,
    device: torch.device,
    images: Path | None,
) -> Comparison:
    """The engine's output on the GPU against the float64 truth of the reference.

    ``device`` is where the reference runs, if it is weights. ``images`` None: seeded noise and the
    extremes.

    Raises:
        UserError: another input, output or precision than the reference's; or the engine does not
            load or run here.
    """
    with EngineRunner(file) as engine:
        image = engine.tensors.image
        samples, batch = _samples(file.path, image, images)
        if isinstance(reference, WeightsFile):
            truth, own = _run_weights(reference, file, device, samples)
        else:
            truth, own = _run_onnx(reference, engine, samples)
        output = run(engine, samples, batch)
        try:
            return compare("end to end", truth, own, output, rounding_of(engine))
        except RepvggDeployError as error:
            raise type(error)(f"{file.path}: {error}") from error


def _run_weights(
    reference: WeightsFile, file: CheckedEngine, device: torch.device, samples: NDArray[np.float32]
) -> tuple[Array, Array]:
    """In float64, and in the engine's precision."""
    network, precision = reference.network, file.artifact.precision
    check_channels(network, reference.path, samples.shape[1], file.path)
    if precision not in TORCH_DTYPE:
        raise UserError(
            f"{file.path}: is an {precision} engine, and weights cannot be run in {precision}; "
            f"name the ONNX model that it was built from ({file.artifact.source.path})."
        )
    return run_weights(network, precision, device, samples)


def _run_onnx(
    reference: OnnxInfo, engine: EngineRunner, samples: NDArray[np.float32]
) -> tuple[Array, Array]:
    """In float64, and as the model's own types have it."""
    path, image = reference.path, engine.tensors.image
    ours = (_PRECISIONS.get(image.dtype.name), *image.shape[1:])
    theirs = (reference.precision, reference.channels, reference.height, reference.width)
    if ours != theirs:
        raise UserError(
            f"{engine.tensors.path}: takes {image.dtype} images {image.shape[1:]}, and {path} "
            f"{theirs[0]} images {theirs[1:]}; name the ONNX model that the engine was built from "
            f"({engine.artifact.source.path})."
        )
    step = reference.batch or len(samples)
    parts = [samples[start : start + step] for start in range(0, len(samples), step)]
    if reference.precision == "bf16":  # which neither of the two below has on the CPU
        wide = widened(load_model(path))
        session = OrtSession(path, wide.SerializeToString())
        exact = OnnxFloat64(wide, str(path))
    else:
        session, exact = OrtSession(path), OnnxFloat64(load_model(path), str(path))
    return _outputs(exact, reference.input, parts), _outputs(session, reference.input, parts)


def _outputs(model: OnnxFloat64 | OrtSession, name: str, parts: list[NDArray[np.float32]]) -> Array:
    """The only output, [N, classes]."""
    outputs = [next(iter(model.run({name: part}).values())) for part in parts]
    return np.concatenate(outputs).astype(np.float64)


def _samples(
    engine: Path, image: EngineTensor, images: Path | None
) -> tuple[NDArray[np.float32], int]:
    """Of several profiles, for the one of the largest batch."""
    channels, height, width = image.shape[1:]
    takes = max(image.ranges, key=lambda held: held.max[0])
    return pick_samples(engine, (channels, height, width), takes.min[0], takes.max[0], images)


def rounding_of(engine: EngineRunner) -> str:
    """The precision whose rounding the engine may show at least."""
    precision = engine.artifact.precision
    if precision == "fp32" and engine.artifact.options.get("tf32") is True:
        return "tf32"
    if precision in UNIT_ROUNDOFF:
        return precision
    return _PRECISIONS.get(engine.tensors.image.dtype.name, "fp32")
