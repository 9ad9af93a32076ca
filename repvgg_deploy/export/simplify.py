"""Simplification by onnxsim, and what a graph is made of."""

from __future__ import annotations

from collections import Counter

import onnx
import onnxsim

from ..errors import CheckFailed

#: All that a deploy-form RepVGG may contain; the second set only where squeeze-excitation exists.
PLAIN = {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
SQUEEZE_EXCITE = {"Sigmoid", "Mul"}


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def simplify(model: onnx.ModelProto, has_se: bool) -> onnx.ModelProto:
    """Simplify, run ONNX's full check, and make sure that a plain network came out.

    Raises:
        CheckFailed: an operator that a deployed RepVGG does not have, or an invalid model.
    """
    simplified: onnx.ModelProto = onnxsim.simplify(model)[0]
    try:
        onnx.checker.check_model(simplified, full_check=True)
    except onnx.checker.ValidationError as error:
        raise CheckFailed(f"the ONNX model does not pass onnx.checker: {error}") from error
    allowed = PLAIN | SQUEEZE_EXCITE if has_se else PLAIN
    if foreign := set(operators(simplified)) - allowed:
        raise CheckFailed(f"the ONNX model holds {sorted(foreign)}, so it is not a plain network.")
    return simplified
