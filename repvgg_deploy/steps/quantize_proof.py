"""What quantize proves: the equalized network, the quality of int8, and its integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..equivalence.compare import Comparison, compare
from ..errors import CheckFailed, UserError
from ..quantize.quality import Likeness, decibel, likeness
from ..quantize.quantizer import QuantizedNetwork
from ..runners.onnx_reference import OnnxFloat64
from ..runners.onnx_session import OrtSession
from .calibration import BATCH, Calibration
from .verify import verify_pair

Images = NDArray[np.float32]


def prove_equalization(
    source: Path, model: onnx.ModelProto, network: QuantizedNetwork, images: Images
) -> Comparison | None:
    """The equalized network in float32 against the given one in float64; None: nothing changed."""
    if all(found.direction is None for found in network.ranges.values()):
        return None
    (image,) = model.graph.input
    output = model.graph.output[0].name
    batches = _whole_batches(images, image.type.tensor_type.shape.dim[0].dim_value)

    def run(runner: OrtSession | OnnxFloat64) -> NDArray[Any]:
        found = [runner.run({image.name: batch})[output] for batch in batches]
        return np.concatenate(found).reshape(len(batches) * len(batches[0]), -1)

    own, equalized = (
        run(OrtSession(source, m.SerializeToString())) for m in (model, network.model)
    )
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    truth = run(OnnxFloat64(exact, str(source)))
    compared = compare("equalized", truth, own, equalized)
    if not compared.passed:
        raise CheckFailed(f"{source}: equalization changed the network: {compared.reason}.")
    return compared


def _whole_batches(images: Images, size: int) -> list[Images]:
    """Of a model that takes ``size`` images at once, or any number (0); the last batch is filled up
    with the first images."""
    size = size or len(images)
    count = -(-len(images) // size)
    return np.split(np.resize(images, (count * size, *images.shape[1:])), count)


def measure(
    model: onnx.ModelProto, quantized: onnx.ModelProto, calibration: Calibration
) -> tuple[Likeness, int]:
    """The int8 model as ONNX Runtime runs it unoptimised, beside the float one; and on how many
    images, a whole number of batches of a model that has a fixed one."""
    floats, integers = (
        OrtSession(Path("the model"), m.SerializeToString()) for m in (model, quantized)
    )
    ((name, _, shape),) = floats.inputs
    size, fixed = (shape[0], True) if isinstance(shape[0], int) else (BATCH, False)
    pairs = [
        (floats.run({name: batch}), integers.run({name: batch}))
        for batch in calibration.measured.batches(size)
        if len(batch) == size or not fixed
    ]
    if not pairs:
        raise UserError(f"{calibration.measured.path}: the model takes {size} images at once.")
    outputs = list(pairs[0][0])
    joined = [
        [np.concatenate([pair[which][output] for pair in pairs]) for output in outputs]
        for which in (0, 1)
    ]
    truth, found = joined
    samples = len(truth[0])
    if len(outputs) == 1 and truth[0].ndim == 2:
        labels = calibration.measured.labels
        known = None if labels is None else labels[:samples]
        return likeness(found[0], truth[0], known), samples
    signal = sum(float((values.astype(np.float64) ** 2).sum()) for values in truth)
    error = sum(
        float(((one.astype(np.float64) - other) ** 2).sum())
        for one, other in zip(found, truth, strict=True)
    )
    return Likeness(decibel(signal, error), None), samples


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
