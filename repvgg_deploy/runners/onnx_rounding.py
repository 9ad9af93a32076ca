"""What rounding does in a graph: it runs in float64 with random errors of one rounding each.

This is Monte Carlo arithmetic (Parker 1997, "Monte Carlo arithmetic"): the spread of a few such
runs is the rounding error to expect of that very graph.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from .onnx_reference import OnnxFloat64
from .onnx_session import Arrays

#: Inputs that sizes are computed from, by operator: a size is whole or wrong.
_SIZES = {"Resize": 1, "Upsample": 1, "Range": 0}


def run_rounded(
    exact: OnnxFloat64, inputs: Arrays, unit: float, seed: int, *, results: bool
) -> Arrays:
    """Outputs where every float constant is off by up to ``unit`` of itself, at random.

    With ``results`` what each node gives is off as well, as it is where the graph runs in a
    precision of that unit roundoff. Nodes inside subgraphs and functions give exact results.
    """
    evaluator, noise = exact.evaluator, _Noise(unit, seed)
    nodes: list[OpRun] = evaluator.rt_nodes_
    sizes = _sizes(nodes)
    constants = evaluator.rt_inits_
    evaluator.rt_inits_ = {
        name: values if name in sizes else noise(values) for name, values in constants.items()
    }
    rounded = [
        node
        for node in nodes
        if (results or node.op_type == "Constant") and not sizes & set(node.output)
    ]
    for node in rounded:
        node.run = partial(_run_off, node.run, noise)  # type: ignore[method-assign]
    try:
        return exact.run(inputs)
    finally:
        evaluator.rt_inits_ = constants
        for node in rounded:
            del node.run


class _Noise:
    def __init__(self, unit: float, seed: int) -> None:
        self._unit, self._generator = unit, np.random.default_rng(seed)

    def __call__(self, values: Any) -> Any:
        """Floats off by up to one unit of themselves; anything else as it is."""
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            return values
        return values * (1 + self._unit * self._generator.uniform(-1, 1, values.shape))


def _run_off(run: Any, noise: _Noise, *arguments: Any, **options: Any) -> tuple[Any, ...]:
    return tuple(map(noise, run(*arguments, **options)))


def _sizes(nodes: list[OpRun]) -> set[str]:
    """Tensors that only say how large others are."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in _SIZES:
            found.update(node.input[_SIZES[node.op_type] :])
        elif found & set(node.output) and node.op_type not in ("Shape", "Size"):
            found.update(node.input)
    return found
