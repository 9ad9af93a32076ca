"""One output of two ONNX graphs: by the reference's rounding, or by what rounding does in the
candidate where the network is ill-conditioned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .compare import RATIO_LIMIT, Comparison, compare, furthest, joined
from .oracle import SPREAD_CEILING, ExactGraph

#: How many times the spread of rounded weights a candidate in float64 may be off. Weights folded in
#: float64 stay below 1; a tool that folds in float32 rounds each a few times.
_STORED = 4.0


def judge(
    name: str,
    truth: ExactGraph,
    own: Sequence[NDArray[Any]],
    new: Sequence[NDArray[Any]],
    candidate: Callable[[], ExactGraph],
    limit: float = RATIO_LIMIT,
) -> Comparison:
    """The rounds of a float output: ``own`` of the reference, ``new`` of the candidate.

    A candidate that passes by the reference's own rounding error passes. Of any other, rounding
    has to explain two things: in float64, that its weights were rounded; and in its own precision,
    that its results were as well. ``candidate`` is only called for these.
    """
    half = np.float16 in (own[0].dtype, new[0].dtype)
    precision = "fp16" if half else "fp32"
    exact, reference, found = (joined(rounds) for rounds in (truth.outputs[name], own, new))
    first = compare(name, exact, reference, found, precision, limit)
    if first.passed or not np.isfinite(first.error):
        return first
    try:
        graph = candidate()
    except UserError:  # it has operators of another tool: the verdict stands
        return first
    weights = graph.spread(name, precision, results=False).channels
    stored = compare(
        name, exact, exact, joined(graph.outputs[name]), precision, _STORED, weights,
        "what rounding its weights explains (computed in float64)",
    )  # fmt: skip
    if not stored.passed or weights > SPREAD_CEILING:
        return first
    rounding = graph.spread(name, precision, results=True).channels
    if rounding > SPREAD_CEILING:
        return first
    again = compare(
        name, exact, reference, found, precision, limit, rounding,
        "the rounding error to expect in such a graph",
    )  # fmt: skip
    worst = furthest((stored, again))
    assert worst is not None
    return worst
