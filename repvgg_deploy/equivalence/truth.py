"""Recorded outputs of the user's own model, which any network made from it has to reproduce.

A proof against our own reading of a file cannot find a wrong reading (another eps, other strides);
the user's own model can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckFailed, UserError
from ..runners.onnx_session import Arrays
from ..sqnr import EXACT, LEAST_SQNR_DB, decibel, decibel_text
from .compare import RATIO_LIMIT
from .truth_file import Truth

#: What a sample's outputs may differ by: its L2 error relative to the L2 norm of what was recorded.
#: Float32 networks of these depths round by 1e-7 to 1e-5, and the model and the fused network round
#: differently. The smallest wrong reading, another eps (1e-3 for 1e-5), changes each layer by
#: about 5e-4 where the variances are near 1.
ERROR_LIMIT = 1e-4
#: No network that is of use rounds by more, so more would be another error (relative, L2).
LARGEST_ROUNDING = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}
#: A recorded sample this much quieter than the others is measured by their size.
_SILENT = 1e-6
#: Recorded outputs have to vary by this share of their size.
_LEAST_VARIATION = 1e-3


@dataclass(frozen=True)
class Candidate:
    """A network that is judged by recorded outputs.

    ``run`` gives the outputs by name for inputs by name. ``precision`` is fp32, fp16, bf16,
    or another, which is judged by its SQNR. ``rounding`` is the error that rounding to it makes on
    such inputs (see :func:`rounding_error`); it is asked for only where ERROR_LIMIT is exceeded.
    """

    path: Path
    inputs: Sequence[str]
    outputs: Sequence[str]
    precision: str
    run: Callable[[Arrays], Arrays]
    rounding: Callable[[Arrays], float]


@dataclass(frozen=True)
class TruthCheck:
    """How a network compares with recorded outputs.

    ``error`` is that of the worst sample, ``worst_sample`` (from 0) of the output ``output``: L2,
    relative to what was recorded. ``limit`` is its bound, None where the ``sqnr_db`` over all
    samples has one instead; ``sqnr_db`` None: no difference at all.
    """

    path: str
    sha256: str
    samples: int
    precision: str
    output: str
    worst_sample: int
    error: float
    limit: float | None
    sqnr_db: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def hold_truth(truth: Truth, candidate: Candidate) -> TruthCheck:
    """Run a network on the recorded inputs and compare its outputs with those recorded.

    Every sample has to agree within ERROR_LIMIT, or within RATIO_LIMIT times the rounding error
    that the network makes in this precision, where that is larger; of a rounding error no more than
    LARGEST_ROUNDING counts. int8 is another function than the network it was made from, so rounding
    cannot explain its distance: all samples together need an SQNR of LEAST_SQNR_DB, as quantize
    asks for.

    Raises:
        UserError: arrays that do not fit the network, or a network that does not run.
        CheckFailed: the outputs are others; the sentence has the worst sample.
    """
    inputs, recorded = truth.match(candidate.path, candidate.inputs, candidate.outputs)
    found = candidate.run(inputs)
    for name, values in recorded.items():
        _check_recorded(truth.path, candidate.path, name, values, found[name].shape)
    worst = {name: _worst(values, found[name]) for name, values in recorded.items()}
    output = max(worst, key=lambda name: worst[name][1])
    sample, error = worst[output]
    sqnr_db = _sqnr_db(recorded, found)
    limit = _limit(candidate, inputs, error)
    if not (sqnr_db >= LEAST_SQNR_DB if limit is None else error <= limit):
        raise CheckFailed(
            f"{candidate.path}: is not the network that {truth.path} was recorded from: "
            f"{_difference(output, sample, error, limit, sqnr_db)}. Look at --eps and --strides, "
            "at the preprocessing of x, and record on the CPU or with TF32 off, in eval mode."
        )
    samples = max(len(values) for values in recorded.values())
    return TruthCheck(
        str(truth.path), truth.sha256, samples, candidate.precision, output, sample, error, limit,
        None if sqnr_db == EXACT else sqnr_db,
    )  # fmt: skip


def _limit(candidate: Candidate, inputs: Arrays, error: float) -> float | None:
    """The bound of the worst sample's error; None where the SQNR has one."""
    largest = LARGEST_ROUNDING.get(candidate.precision)
    if largest is None:
        return None
    if error <= ERROR_LIMIT or not np.isfinite(error):
        return ERROR_LIMIT
    return max(ERROR_LIMIT, RATIO_LIMIT * min(candidate.rounding(inputs), largest))


def rounding_error(exact: Arrays, own: Arrays) -> float:
    """The largest relative error of a sample of ``own`` from the same network in float64; 0 where
    that is not finite, since nothing can be excused by it."""
    rounding = max(_worst(exact[name], values)[1] for name, values in own.items())
    return rounding if np.isfinite(rounding) else 0.0


def _difference(output: str, sample: int, error: float, limit: float | None, sqnr_db: float) -> str:
    worst = f"its {output!r} differs by {error:.2g} of the recorded values' size in sample {sample}"
    if limit is None:
        return f"{worst}, and the SQNR is {decibel_text(sqnr_db)} dB, less than {LEAST_SQNR_DB:g}"
    return f"{worst}, more than {limit:.2g}"


def _check_recorded(
    truth: Path, model: Path, name: str, values: NDArray[Any], shape: tuple[int, ...]
) -> None:
    if values.shape != shape:
        raise UserError(
            f"{truth}: its recorded output has shape {values.shape}, and {model} gives {shape} for "
            f"{name!r} on the recorded inputs; record what that model gives."
        )
    if not values.any():
        raise UserError(
            f"{truth}: its recorded output for {name!r} is zero throughout, which any network "
            "could give that is silent; record other samples."
        )
    exact = np.asarray(values, np.float64).reshape(len(values), -1)
    sizes, variations = np.linalg.norm(exact, axis=1), _variations(exact)
    if len(exact) > 1 and variations.max() < _LEAST_VARIATION * sizes.max():
        raise UserError(
            f"{truth}: its recorded output for {name!r} hardly differs between the samples, so it "
            "tells little of the network; record inputs that differ."
        )


def _worst(recorded: NDArray[Any], found: NDArray[Any]) -> tuple[int, float]:
    """The sample that differs most, and by how much; infinite where ``found`` is not finite."""
    errors = _errors(recorded, found)
    sample = int(errors.argmax())
    return sample, float(errors[sample])


def _variations(truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each sample [N, values] is from the mean of all, [N]."""
    distances: NDArray[np.float64] = np.linalg.norm(truth - truth.mean(axis=0), axis=1)
    return distances


def _errors(recorded: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Of each sample, [N], relative to what varies in it: an offset that all samples share says
    nothing of the network, and would hide its errors."""
    truth, own = (np.asarray(a, np.float64).reshape(len(recorded), -1) for a in (recorded, found))
    scale = np.linalg.norm(truth, axis=1)
    if len(truth) > 1:
        variations = _variations(truth)
        scale = np.minimum(scale, np.maximum(variations, np.median(variations)))
    floor = max(_SILENT * float(np.sqrt((scale**2).mean())), float(np.finfo(float).tiny))
    finite = np.asarray(np.isfinite(own).all(axis=1))
    difference = np.linalg.norm(np.where(finite.reshape(-1, 1), own, 0) - truth, axis=1)
    return np.where(finite, difference / np.maximum(scale, floor), np.inf)


@np.errstate(invalid="ignore", over="ignore")
def _sqnr_db(recorded: Arrays, found: Arrays) -> float:
    """Of the worst output."""
    ratios = []
    for name, values in recorded.items():
        exact, own = (np.asarray(array, np.float64) for array in (values, found[name]))
        ratios.append(decibel(float((exact**2).sum()), float(((own - exact) ** 2).sum())))
    return min(ratios)
