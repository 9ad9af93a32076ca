"""Why a network is no faster than the baseline: the known causes, each looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from .record import BenchRecord, Explanation


@dataclass(frozen=True)
class Operators:
    """How many of each a runtime runs; ``total`` counts all of its operators."""

    convolutions: int
    norms: int
    additions: int
    total: int


#: (runtime, label) -> what the runtime made of that subject's graph
Graphs = Mapping[tuple[str, str], Operators]


def operators(model: ModelProto) -> Operators:
    """Of an ONNX graph: the exported one, or what ONNX Runtime wrote after optimising."""
    raise NotImplementedError


def explain(record: BenchRecord, graphs: Graphs) -> list[Explanation]:
    """For each subject that was to be faster than the baseline of its contest and is not, beyond
    noise: every known cause that holds, or one explanation that none does."""
    raise NotImplementedError
