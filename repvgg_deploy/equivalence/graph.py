"""The proof that two ONNX graphs are one network: at every output, and where regions end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from ..errors import UserError
from ..reparam.graph.files import read_proto
from ..runners.onnx_reference import OnnxFloat64
from ..runners.onnx_session import Arrays, OrtSession
from .compare import RATIO_LIMIT, Comparison, compare
from .graph_inputs import made_up_inputs, match_inputs


@dataclass(frozen=True)
class GraphProof:
    """``outputs`` and ``regions`` (tensors of both graphs that a new Conv makes) are floats.

    ``agreement`` maps every integer or bool output to the share of equal values.
    """

    outputs: tuple[Comparison, ...]
    regions: tuple[Comparison, ...]
    agreement: dict[str, float]

    @property
    def worst(self) -> Comparison | None:
        """The comparison furthest from its reference; None where no output is a float."""
        both = (*self.outputs, *self.regions)
        return max(both, key=lambda c: (not c.passed, c.ratio), default=None)

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold; empty where the proof passes."""
        lines = [f"{c.name}: {c.reason}" for c in (*self.outputs, *self.regions) if not c.passed]
        lines += [
            f"{name}: only {share:.2%} of its values agree"
            for name, share in self.agreement.items()
            if share < 1
        ]
        return lines

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "failures": self.failures}


def prove_graphs(
    reference: Path, candidate: Path, inputs: Arrays | None = None, limit: float = RATIO_LIMIT
) -> GraphProof:
    """Run both models in ONNX Runtime, the reference in float64 as well, and compare.

    ``inputs`` by name, each [N, ...], or the one array of a model's one input; None: noise.

    Raises:
        UserError: models of different inputs or outputs, or that cannot be run on such inputs.
    """
    old, new = read_proto(reference), read_proto(candidate)
    first = OrtSession(reference)
    if inputs is None:
        rounds = made_up_inputs(first, reference)
    else:
        rounds = [match_inputs(inputs, first, reference)]
    if [i[0] for i in first.inputs] != [i[0] for i in OrtSession(candidate).inputs]:
        raise UserError(f"{candidate}: has other inputs than {reference}; these are two networks.")
    outputs = [value.name for value in old.graph.output]
    if outputs != [value.name for value in new.graph.output]:
        raise UserError(f"{candidate}: has other outputs than {reference}; these are two networks.")
    shared = _new_convs(old, new)
    own = _in_rounds(_session(reference, old, shared), rounds)
    result = _in_rounds(_session(candidate, new, shared), rounds)
    truth = _in_rounds(OnnxFloat64(_expose(onnx.load(reference), shared)), rounds)
    floats = [name for name in outputs if own[name].dtype.kind == "f"]
    return GraphProof(
        tuple(_compare(name, truth, own, result, limit) for name in floats),
        tuple(_compare(name, truth, own, result, limit) for name in shared),
        {name: _agreement(own[name], result[name]) for name in outputs if name not in floats},
    )


def _new_convs(old: ModelProto, new: ModelProto) -> list[str]:
    """Tensors of the reference that a Conv makes in the candidate, and another node did before."""
    before = {name: node for node in old.graph.node for name in node.output}
    outputs = {value.name for value in old.graph.output}
    return [
        node.output[0]
        for node in new.graph.node
        if node.op_type == "Conv"
        and node.output[0] in before
        and node.output[0] not in outputs
        and node != before[node.output[0]]
    ]


def _expose(model: ModelProto, names: Iterable[str]) -> ModelProto:
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return model


def _session(path: Path, model: ModelProto, names: list[str]) -> OrtSession:
    """``path``, giving some of its inner tensors too."""
    if not names:
        return OrtSession(path)
    return OrtSession(path, _expose(model, names).SerializeToString())


def _in_rounds(session: OrtSession | OnnxFloat64, rounds: list[Arrays]) -> Arrays:
    """The outputs of all rounds, joined along the first axis."""
    results = [session.run(inputs) for inputs in rounds]
    return {
        name: np.concatenate([np.atleast_1d(result[name]) for result in results])
        for name in results[0]
    }


def _compare(name: str, truth: Arrays, own: Arrays, new: Arrays, limit: float) -> Comparison:
    precision = "fp16" if np.float16 in (own[name].dtype, new[name].dtype) else "fp32"
    exact, reference, candidate = (_at_least_2d(arrays[name]) for arrays in (truth, own, new))
    return compare(name, exact, reference, candidate, precision, limit)


def _at_least_2d(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.ndim >= 2 else values.reshape(-1, 1)


def _agreement(own: NDArray[Any], new: NDArray[Any]) -> float:
    if own.shape != new.shape:
        return 0.0
    return float((own == new).mean()) if own.size else 1.0
