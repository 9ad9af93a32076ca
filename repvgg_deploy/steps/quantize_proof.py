"""What quantize proves: the equalized network, the quality of int8, and its integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..data.image_set import BATCH
from ..equivalence.compare import Comparison, furthest
from ..equivalence.judge import judge
from ..equivalence.oracle import ExactGraph, checked_truth, in_rounds
from ..errors import CheckFailed, UserError
from ..files import is_onnx
from ..quantize.quality import Likeness, LikenessTally
from ..quantize.quantizer import QuantizedNetwork
from ..runners.onnx_session import OrtSession
from .calibration import Calibration
from .verify import verify_pair
from .verify_int8_graph import verify_int8_graph

Images = NDArray[np.float32]

#: On as many the equalized network is held against the one it was made from.
_PROOF_IMAGES = 8


def prove_equalization(
    source: Path, model: onnx.ModelProto, network: QuantizedNetwork, images: Images
) -> Comparison | None:
    """The equalized network in float32 against the given one in float64; None: nothing changed."""
    if all(found.direction is None for found in network.ranges.values()):
        return None
    session = OrtSession(source, model.SerializeToString())
    ((name, _, (batch, *_)),) = session.inputs
    rounds = [{name: np.array(images[: batch if isinstance(batch, int) else _PROOF_IMAGES])}]
    own = in_rounds(session, rounds)
    new = in_rounds(OrtSession(source, network.model.SerializeToString()), rounds)
    truth = checked_truth(source, _copy(model), rounds, own)
    equalized = cache(lambda: ExactGraph(source, _copy(network.model), rounds))
    compared = furthest(judge(key, truth, own[key], new[key], equalized) for key in new)
    assert compared is not None  # a model has outputs
    if not compared.passed:
        raise CheckFailed(
            f"{source}: equalization changed its output {compared.name!r}: {compared.reason}."
        )
    return compared


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """For the evaluator, which changes what it is given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@dataclass(frozen=True)
class Measured:
    """On ``samples`` images; a whole number of batches of a model that has a fixed one."""

    quality: Likeness
    samples: int


def measure(
    model: onnx.ModelProto, quantized: onnx.ModelProto, calibration: Calibration
) -> Measured:
    """The int8 model as ONNX Runtime runs it unoptimised, beside the float one."""
    floats, integers = (
        OrtSession(Path("the model"), m.SerializeToString()) for m in (model, quantized)
    )
    ((name, _, shape),) = floats.inputs
    size, fixed = (shape[0], True) if isinstance(shape[0], int) else (BATCH, False)
    tally = LikenessTally(calibration.measured.labels)
    for batch in calibration.measured.batches(size):
        if len(batch) == size or not fixed:
            tally.add(integers.run({name: batch}), floats.run({name: batch}))
    return Measured(tally.likeness(), tally.samples)


def prove_integers(source: Path, staged: Path, size: tuple[int, int]) -> dict[str, int]:
    """The integers in ONNX Runtime against torch's, counted.

    ``size`` is the (height, width) of the images that the network was quantized on.

    Raises:
        UserError: the check cannot be run, and why.
        CheckFailed: they differ.
    """
    try:
        if is_onnx(source):
            verdict = verify_int8_graph(source, staged, None, size)
        else:
            verdict = verify_pair(source, staged, "cpu")
    except UserError as error:
        reason = str(error).replace(f"{staged.parent}/", "")  # a folder that is gone in a moment
        raise UserError(
            f"{source}: the integers of its int8 model cannot be checked, so nothing was written: "
            f"{reason}"
        ) from error
    if verdict.failures:
        raise CheckFailed(
            f"{source}: its int8 model does not compute what was meant: {verdict.failures[0]}; "
            "nothing was written. If fp16 overflows there, give --float fp32."
        )
    found = verdict.integers
    assert found is not None  # verify of an int8 model always has them
    return {"values": found.values, "differing": found.differing, "largest": found.largest}
