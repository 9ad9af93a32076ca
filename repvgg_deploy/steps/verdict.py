"""The judgement on one pair of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..equivalence.compare import Comparison
from ..equivalence.graph import GraphProof
from ..equivalence.proof import Proof
from ..equivalence.truth import TruthCheck
from ..equivalence.weights import WeightCheck
from .assumptions import Assumptions
from .int8_proof import IntegerProof


@dataclass(frozen=True)
class Verdict:
    """The judgement on one pair; ``proof`` where both are weights, block by block.

    ``end_to_end`` is None for weights whose network is not known; ``changed`` then names tensors
    outside the blocks that are not the same to the bit. For two ONNX models it is the worst
    output of ``graphs`` (None: no float output). For an int8 model ``integers`` is compared first;
    ``end_to_end`` is None where they already differ. ``weights`` is None for an engine, which
    shows none. ``truth`` is how each compares with recorded outputs, reference first; empty where
    there are none. ``assumptions`` are those of each file of weights, of what it does not say.
    """

    reference: Path
    candidate: Path
    end_to_end: Comparison | None
    proof: Proof | None
    device: str
    changed: tuple[str, ...] = ()
    graphs: GraphProof | None = None
    integers: IntegerProof | None = None
    weights: WeightCheck | None = None
    truth: tuple[TruthCheck, ...] = ()
    assumptions: tuple[tuple[Path, Assumptions], ...] = ()

    @property
    def failures(self) -> list[str]:
        weights = [] if self.weights is None else list(self.weights.failures)
        if self.graphs is not None:
            return self.graphs.failures + weights
        if self.integers is not None and self.integers.failures:
            return self.integers.failures
        lines = [] if self.proof is None else list(self.proof.failures)
        end = self.end_to_end
        if self.proof is None and end is not None and not end.passed:
            lines.append(f"end to end: {end.reason}")
        lines += weights
        return lines + [f"{key}: is not what the reference holds" for key in self.changed]
