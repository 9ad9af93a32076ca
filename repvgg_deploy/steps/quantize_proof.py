"""What quantize proves: the equalized network, the quality of int8, and its integers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..equivalence.compare import Comparison, compare
from ..errors import CheckFailed, UserError
from ..quantize.quantizer import QuantizedNetwork
from ..runners.onnx_reference import OnnxFloat64
from ..runners.onnx_session import OrtSession
from .calibration import BATCH, Calibration
from .verify import verify_pair

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """Of the int8 network beside the float one. ``agreement`` and ``top1_drop`` (points of percent)
    are None where there are no classes, or no labels."""

    samples: int
    sqnr_db: float
    agreement: float | None
    top1_drop: float | None


def prove_equalization(
    source: Path, model: onnx.ModelProto, network: QuantizedNetwork, images: Images
) -> Comparison | None:
    """The equalized network in float32 against the given one in float64; None: nothing changed."""
    if all(found.direction is None for found in network.ranges.values()):
        return None
    (name,) = (value.name for value in model.graph.input)
    outputs = [value.name for value in model.graph.output]

    def run(candidate: onnx.ModelProto) -> NDArray[Any]:
        found = OrtSession(source, candidate.SerializeToString()).run({name: np.array(images)})
        return found[outputs[0]]

    own, equalized = run(model), run(network.model)
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    truth = OnnxFloat64(exact, str(source)).run({name: np.array(images)})[outputs[0]]
    shape = (len(images), -1)
    compared = compare(
        "equalized", truth.reshape(shape), own.reshape(shape), equalized.reshape(shape)
    )
    if not compared.passed:
        raise CheckFailed(f"{source}: equalization changed the network: {compared.reason}.")
    return compared


def measure(
    model: onnx.ModelProto, quantized: onnx.ModelProto, calibration: Calibration
) -> Quality:
    """The int8 model as ONNX Runtime runs it unoptimised, beside the float one."""
    floats, integers = (
        OrtSession(Path("the model"), m.SerializeToString()) for m in (model, quantized)
    )
    ((name, _, shape),) = floats.inputs
    size = shape[0] if isinstance(shape[0], int) else BATCH
    signal = error = 0.0
    classes: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for batch in calibration.measured.batches(size):
        if len(batch) < size and isinstance(shape[0], int):
            break  # a model of fixed batch takes whole ones
        one, other = floats.run({name: batch}), integers.run({name: batch})
        for output, values in one.items():
            wide = values.astype(np.float64)
            signal += float((wide**2).sum())
            error += float(((other[output] - wide) ** 2).sum())
        first = next(iter(one))
        if one[first].ndim == 2:
            classes.append((one[first].argmax(1), other[first].argmax(1)))
    sqnr = 10 * float(np.log10(signal / error)) if signal and error else float("inf")
    if not classes:
        return Quality(len(calibration.measured), sqnr, None, None)
    before, after = (np.concatenate(part) for part in zip(*classes, strict=True))
    labels = calibration.measured.labels
    drop = None
    if labels is not None:
        known = labels[: len(before)]
        drop = 100 * float((before == known).mean() - (after == known).mean())
    return Quality(len(before), sqnr, float((before == after).mean()), drop)


def prove_integers(source: Path, staged: Path) -> tuple[dict[str, int] | None, str]:
    """The integers in ONNX Runtime against torch's; or why that cannot be done."""
    try:
        verdict = verify_pair(source, staged, "cpu")
    except UserError as error:
        return None, str(error)
    if verdict.failures:
        raise CheckFailed(
            f"{source}: its int8 model does not compute what was meant: {verdict.failures[0]}; "
            "nothing was written."
        )
    found = verdict.integers
    if found is None:
        return None, "it has no integers that could be compared"
    counted = {"values": found.values, "differing": found.differing, "largest": found.largest}
    return counted, ""
