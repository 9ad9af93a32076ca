"""verify, of an engine: what it computes on this machine's GPU, against where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine.load import CheckedEngine
from ..equivalence.compare import UNIT_ROUNDOFF, Comparison, compare
from ..equivalence.oracle import Rounds, checked_truth, in_rounds, relative_distance
from ..errors import RepvggDeployError, UserError
from ..quantize.quality import SAME_INT8_AGREEMENT, SAME_INT8_DB
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo
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
        CheckFailed: the truth of an ONNX reference is in doubt.
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
            if engine.artifact.precision == "int8":
                return _compare_int8(truth, own, output)
            return compare("end to end", truth, own, output, rounding_of(engine))
        except RepvggDeployError as error:
            raise type(error)(f"{file.path}: {error}") from error


def _compare_int8(truth: Array, own: Array, output: Array) -> Comparison:
    """By SQNR and agreement: whether a value on an edge fell to the other integer is luck, so ONNX
    Runtime's own distance from the truth says little about another runtime's."""
    found = compare("end to end", truth, own, output)
    noise, error = 10 ** (-SAME_INT8_DB / 20), relative_distance(output, truth)
    agreement = 1.0 if found.top1_agreement is None else found.top1_agreement
    return replace(
        found,
        precision="int8",
        noise=noise,
        error=error,
        ratio=error / noise,
        limit=1.0,
        passed=bool(error <= noise and agreement >= SAME_INT8_AGREEMENT),
        reason=f"SQNR {found.sqnr_db:.1f} dB beside its graph in float64, at least "
        f"{SAME_INT8_DB:g}; top-1 agreement {agreement:.0%}, at least {SAME_INT8_AGREEMENT:.0%}",
    )


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
    rounds = [{reference.input: part} for part in parts]
    model = load_model(path)
    if reference.precision == "bf16":  # which ONNX Runtime does not have on the CPU
        model = widened(model)
        session = OrtSession(path, model.SerializeToString())
    else:
        session = OrtSession(path)
    own = in_rounds(session, rounds)
    truth = checked_truth(path, model, rounds, own)
    return _only(truth.outputs), _only(own)


def _only(rounds: Rounds) -> Array:
    """The only output, [N, classes]."""
    return np.concatenate(next(iter(rounds.values()))).astype(np.float64)


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
