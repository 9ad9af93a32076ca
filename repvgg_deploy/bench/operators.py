"""What of an unfused network is left in the graph that a runtime runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto


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
    """Of an ONNX graph: the exported one, or what ONNX Runtime made of it.

    Convolutions of all kinds count, with what ONNX Runtime merged into them (FusedConv).
    """
    kinds = Counter(node.op_type for node in model.graph.node)
    return Operators(
        convolutions=sum(n for kind, n in kinds.items() if "Conv" in kind),
        norms=kinds["BatchNormalization"],
        additions=kinds["Add"] + kinds["Sum"],
        total=sum(kinds.values()) - kinds["Constant"],
    )
