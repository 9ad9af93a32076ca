"""The proof that two ONNX graphs are one network: at every output, and where regions end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from ..errors import CheckFailed, UserError
from ..reparam.graph.check import check_no_nan
from ..reparam.graph.files import load_model, read_proto
from ..runners.onnx_session import Arrays, OrtSession
from .compare import (
    RATIO_LIMIT,
    UNIT_ROUNDOFF,
    Comparison,
    distance,
    failure_lines,
    furthest,
    joined,
)
from .discrete import Agreement, agree
from .graph_inputs import OTHER_INPUTS, made_up_inputs, match_inputs
from .judge import judge
from .oracle import ExactGraph, Rounds, checked_truth, in_rounds

#: Outputs that decide alone have to tell a network whose constants are all off by up to this share.
_TOLD = 0.01
#: A weight beyond this, and it is not the inputs' fault that an output is infinite.
_OVERFLOWING = 1e18


@dataclass(frozen=True)
class GraphProof:
    """``outputs`` and ``regions`` (tensors of both graphs, where fused regions end) are floats.

    ``discrete`` are the other outputs: integers, bools and strings.
    """

    outputs: tuple[Comparison, ...]
    regions: tuple[Comparison, ...]
    discrete: tuple[Agreement, ...]

    @property
    def worst(self) -> Comparison | None:
        """The comparison furthest from its reference; None where no output is a float."""
        return furthest((*self.outputs, *self.regions))

    @property
    def worst_output(self) -> Comparison | None:
        return furthest(self.outputs)

    @property
    def worst_region(self) -> Comparison | None:
        return furthest(self.regions)

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold, the worst first; empty where it passes."""
        flipped = sorted(
            self.discrete, key=lambda part: part.candidate / max(part.values, 1), reverse=True
        )
        return failure_lines((*self.outputs, *self.regions)) + [
            f"{part.name}: {part.reason}" for part in flipped if not part.passed
        ]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "failures": self.failures}


def prove_graphs(
    reference: Path,
    candidate: Path,
    inputs: Arrays | None = None,
    regions: Iterable[str] = (),
    limit: float = RATIO_LIMIT,
    *,
    alone: bool = False,
) -> GraphProof:
    """Run both models in ONNX Runtime, the reference in float64 as well, and compare.

    ``inputs`` by name, each [N, ...], or the one array of a model's one input; None: noise.
    ``regions`` are tensors that both hold, to be compared as outputs are. Only who made the
    candidate knows them: tensors of one name need not be the same in any two graphs. ``alone``:
    nothing else tells the two models apart, so their outputs have to tell wrong weights.

    Raises:
        UserError: models of different inputs or outputs, or that cannot be run on such inputs, or
            whose reference has a weight with NaN or gives NaN or infinity there; or one in bf16.
        CheckFailed: the truth of the reference is in doubt, see :func:`checked_truth`; or outputs
            decide ``alone`` and would pass wrong weights.
    """
    old, new = read_proto(reference), read_proto(candidate)
    for path, model in ((reference, old), (candidate, new)):
        _refuse_bf16(path, model)
    largest = check_no_nan(old, reference)
    rounds = _inputs(reference, candidate, inputs)
    _check_outputs(reference, candidate, old, new)
    outputs = [value.name for value in old.graph.output]
    inner = [name for name in regions if name not in outputs]
    own = in_rounds(_session(reference, old, inner), rounds)
    result = in_rounds(_session(candidate, new, inner), rounds)
    exact = checked_truth(reference, _expose(load_model(reference), inner), rounds, own)
    truth = exact.outputs
    floats = [name for name in outputs if own[name][0].dtype.kind == "f"]
    for name in (*floats, *inner):
        _check_finite(reference, name, (*truth[name], *own[name]), inputs is None, *largest)
        if any(a.shape != b.shape for a, b in zip(own[name], result[name], strict=True)):
            raise UserError(
                f"{candidate}: its {name!r} has another shape than that of {reference}; these are "
                "two networks."
            )
    fused = cache(lambda: ExactGraph(candidate, _expose(load_model(candidate), inner), rounds))

    def judge_one(name: str) -> Comparison:
        return judge(name, exact, own[name], result[name], fused, limit)

    proof = GraphProof(
        tuple(map(judge_one, floats)),
        tuple(map(judge_one, inner)),
        tuple(
            agree(name, truth[name], own[name], result[name], limit)
            for name in outputs
            if name not in floats
        ),
    )
    if alone and proof.passed and not _tells(exact, own, proof, limit):
        raise CheckFailed(
            f"{candidate}: cannot be compared with {reference} by their outputs, which stay the "
            f"same when every weight is changed by up to {_TOLD:.0%}; give inputs on which they "
            "differ, or compare models that give the values before an ArgMax or the like."
        )
    return proof


def _inputs(reference: Path, candidate: Path, given: Arrays | None) -> list[Arrays]:
    """Rounds of inputs that both models take; UserError where they take others than each other."""
    first = OrtSession(reference)
    if given is None:
        rounds = made_up_inputs(first, reference)
    else:
        rounds = [match_inputs(given, first, reference)]
    if [i[0] for i in first.inputs] != [i[0] for i in OrtSession(candidate).inputs]:
        raise UserError(f"{candidate}: has other inputs than {reference}; these are two networks.")
    return rounds


def _check_outputs(reference: Path, candidate: Path, old: ModelProto, new: ModelProto) -> None:
    """UserError where the two models name their outputs otherwise."""
    if [value.name for value in old.graph.output] != [value.name for value in new.graph.output]:
        raise UserError(f"{candidate}: has other outputs than {reference}; these are two networks.")


def _tells(exact: ExactGraph, own: Rounds, proof: GraphProof, limit: float) -> bool:
    """Whether the reference with wrong weights would fail: not where outputs are saturated, all
    zero, or a handful of classes."""
    if any(part.noise > UNIT_ROUNDOFF[part.precision] for part in proof.outputs):
        return True  # they show its rounding errors, so they show larger ones
    wrong = exact.disturbed(_TOLD)
    for part in proof.outputs:
        shown = joined(wrong[part.name])
        truth = joined(exact.outputs[part.name])
        if shown.shape != truth.shape or distance(shown, truth) > limit * part.noise:
            return True
    return any(
        not agree(
            part.name, exact.outputs[part.name], own[part.name], wrong[part.name], limit
        ).passed
        for part in proof.discrete
    )


def _refuse_bf16(path: Path, model: ModelProto) -> None:
    """ONNX Runtime has no bf16 convolution on the CPU, and says so in words of its own."""
    if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        raise UserError(
            f"{path}: is a bf16 model, which ONNX Runtime does not run on the CPU; hold it against "
            "the weights that it was made from (fused.safetensors) instead."
        )


def _expose(model: ModelProto, names: Iterable[str]) -> ModelProto:
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return model


def _session(path: Path, model: ModelProto, names: list[str]) -> OrtSession:
    """``path``, giving some of its inner tensors too."""
    if not names:
        return OrtSession(path)
    return OrtSession(path, _expose(model, names).SerializeToString())


def _check_finite(
    reference: Path,
    name: str,
    arrays: Iterable[NDArray[Any]],
    made_up: bool,
    weight: str,
    largest: float,
) -> None:
    """UserError where an output of the reference holds NaN or infinity; ``weight`` is the constant
    with the ``largest`` number."""
    if all(np.isfinite(values).all() for values in arrays):
        return
    if largest >= _OVERFLOWING:
        raise UserError(
            f"{reference}: overflows at its {name!r}: its weight {weight!r} holds values up to "
            f"{largest:.2g}; export it from an earlier checkpoint."
        )
    inputs = "made-up inputs; noise does not suit this model, so" if made_up else "these inputs;"
    raise UserError(f"{reference}: its {name!r} holds NaN or infinity on {inputs} {OTHER_INPUTS}.")
