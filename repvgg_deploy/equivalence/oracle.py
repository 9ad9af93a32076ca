"""The float64 truth of an ONNX graph, itself checked before anything is judged by it.

The evaluator may be wrong (ONNX's own was, about batch norm below opset 14), and a wrong truth
makes the reference's "rounding error" so large that any candidate is within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ..errors import CheckFailed
from ..runners.onnx_precision import in_float32
from ..runners.onnx_reference import OnnxFloat64
from ..runners.onnx_rounding import run_rounded
from ..runners.onnx_session import Arrays, OrtSession
from .compare import UNIT_ROUNDOFF, distance, joined

#: What each round gave, by output.
Rounds = dict[str, list[NDArray[Any]]]

#: Relative distance, over all values, of a float32 run from the float64 truth: 168 roundings, all
#: to one side. Further off, random roundings in that very graph have to explain it.
FLOAT32_BOUND = 1e-5
#: How many times their spread it may be off; measured 0.6 to 3.0 (docs/numerics.md).
_EXPLAINED = 8.0
#: In float16 the same is the share of 200 roundings to one side. From a tenth on, 8 times the
#: reference's own error is as much as the output itself, and any candidate would pass.
FLOAT16_BOUND = 0.1
#: Where a graph quantizes, a value on the edge between two integers falls to the other one and
#: moves everything behind it: 20 dB.
QUANTIZED_BOUND = 0.1
#: Where rounding moves an output by more than this, it hides every fault and explains nothing.
SPREAD_CEILING = 0.1
#: Of integer and bool outputs at most one value in so many may differ.
_FLIPPED = 10
#: Runs with random roundings that a spread is the largest of.
_DRAWS = 3


@dataclass(frozen=True)
class Spread:
    """How far rounding moves an output: ``channels`` as :func:`~.compare.distance` measures it,
    ``values`` over all values."""

    channels: float
    values: float


class ExactGraph:
    """An ONNX graph in float64 on ``rounds`` of inputs; ``outputs`` holds what it gives.

    ``model`` is changed.

    Raises:
        UserError: a model that the evaluator cannot run.
    """

    def __init__(self, path: Path, model: ModelProto, rounds: list[Arrays]) -> None:
        self._model, self._rounds = OnnxFloat64(model, str(path)), rounds
        self.outputs: Rounds = in_rounds(self._model, rounds)
        self._spreads: dict[tuple[str, bool], dict[str, Spread]] = {}

    def spread(self, name: str, precision: str, *, results: bool) -> Spread:
        """How far random roundings to ``precision`` move an output.

        Of the constants, and with ``results`` of what every node gives as well.
        """
        key = precision, results
        if key not in self._spreads:
            self._spreads[key] = self._draw(UNIT_ROUNDOFF[precision], results)
        return self._spreads[key][name]

    def disturbed(self, share: float) -> Rounds:
        """What it gives where every float constant is off by up to ``share`` of itself."""
        runs = [
            run_rounded(self._model, inputs, share, seed, results=False)
            for seed, inputs in enumerate(self._rounds)
        ]
        return {name: [run[name] for run in runs] for name in self.outputs}

    def _draw(self, unit: float, results: bool) -> dict[str, Spread]:
        floats = [name for name, arrays in self.outputs.items() if arrays[0].dtype.kind == "f"]
        found = dict.fromkeys(floats, Spread(0.0, 0.0))
        for draw in range(_DRAWS):
            runs = [
                run_rounded(self._model, inputs, unit, seed, results=results)
                for seed, inputs in enumerate(self._rounds, draw * len(self._rounds))
            ]
            for name in floats:
                off, exact = joined([run[name] for run in runs]), joined(self.outputs[name])
                same = off.shape == exact.shape  # a shape may depend on the values
                found[name] = Spread(
                    max(found[name].channels, distance(off, exact) if same else np.inf),
                    max(found[name].values, relative_distance(off, exact) if same else np.inf),
                )
        return found


def checked_truth(path: Path, model: ModelProto, rounds: list[Arrays], own: Rounds) -> ExactGraph:
    """The truth of ``model``, once ONNX Runtime agrees with it in float32.

    ``own`` is what ONNX Runtime gives of the model as it stands, by output. A model of a narrower
    type is run in float32 as well. ``model`` is changed; its weights are in it, not in other files.

    Raises:
        UserError: a model that one of the two cannot run.
        CheckFailed: they differ by more than rounding explains: nothing can be proved by them.
    """
    single = in_float32(model)
    runs = [(own, FLOAT32_BOUND, "float32")]
    if single is not None:
        widened = in_rounds(OrtSession(path, single.SerializeToString()), rounds)
        runs = [(widened, FLOAT32_BOUND, "float32"), (own, FLOAT16_BOUND, "float16")]
    quantizes = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    truth = ExactGraph(path, model, rounds)
    for name in truth.outputs:
        for run, bound, kind in runs:
            reason = _doubt(truth, name, run[name], max(bound, QUANTIZED_BOUND * quantizes))
            if reason:
                raise CheckFailed(
                    f"{path}: cannot be proved here, because its {name!r} in ONNX Runtime ({kind}) "
                    f"and in ONNX's reference evaluator (float64) differ {reason}; convert the "
                    "model to another opset (onnx.version_converter), or report it with the model."
                )
    return truth


def _doubt(truth: ExactGraph, name: str, own: list[NDArray[Any]], bound: float) -> str:
    """By how much more than rounding explains ``own`` is off; empty where it explains it."""
    exact = truth.outputs[name]
    shapes = [[array.shape for array in arrays] for arrays in (exact, own)]
    if shapes[0] != shapes[1]:
        return f"in shape ({shapes[1][0]} and {shapes[0][0]})"
    if exact[0].dtype.kind != "f":
        values = sum(array.size for array in exact)
        flipped = sum(int((one != other).sum()) for one, other in zip(exact, own, strict=True))
        return f"in {flipped} of {values} values" if flipped > max(values // _FLIPPED, 1) else ""
    found = relative_distance(joined(own), joined(exact))
    if found <= bound or not np.isfinite(found):
        return ""  # NaN and infinity have a sentence of their own
    if bound == FLOAT32_BOUND:
        spread = truth.spread(name, "fp32", results=True).values
        if spread <= SPREAD_CEILING:
            bound = max(bound, _EXPLAINED * spread)
    return "" if found <= bound else f"by {found:.1e}, and rounding explains {bound:.1e}"


def relative_distance(values: NDArray[Any], truth: NDArray[Any]) -> float:
    """Over all values: 1e-3 are 60 dB."""
    exact = np.asarray(truth, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error, size = np.linalg.norm(values - exact), np.linalg.norm(exact)
    return float(error / max(size, np.finfo(float).tiny)) if error else 0.0


def in_rounds(session: OrtSession | OnnxFloat64, rounds: list[Arrays]) -> Rounds:
    """What each round gave, by output."""
    results = [session.run(inputs) for inputs in rounds]
    return {name: [result[name] for result in results] for name in results[0]}
