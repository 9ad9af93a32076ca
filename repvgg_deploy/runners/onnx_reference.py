"""An ONNX model in float64, by the ONNX project's own reference evaluator: slow and exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from onnx.reference import ReferenceEvaluator

from ..errors import UserError
from ..reparam.graph.model import sort_nodes
from .onnx_operators import OPERATORS
from .onnx_precision import set_precision


class OnnxFloat64:
    """Every float constant and cast of the model in float64, so that rounding plays no part.

    ``model`` is changed. ``name`` stands in the sentences of errors.

    Raises:
        UserError: a model that the reference evaluator cannot load, or (``run``) cannot run.
    """

    def __init__(self, model: ModelProto, name: str = "the model") -> None:
        self._name = name
        try:
            set_precision(model, TensorProto.DOUBLE)
            sort_nodes(model.graph)
            self.evaluator = ReferenceEvaluator(model, new_ops=list(OPERATORS))
        except Exception as error:  # the evaluator raises whatever a bad model makes it stumble on
            raise UserError(f"{self._name}: cannot be evaluated in float64: {error}") from error

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; float inputs are raised to float64."""
        feed = {name: _double(values) for name, values in inputs.items()}
        try:
            with np.errstate(all="ignore"):  # what is not finite is told from the outputs
                outputs = self.evaluator.run(None, feed)
        except Exception as error:
            raise UserError(f"{self._name}: cannot be run in float64: {error}") from error
        assert isinstance(outputs, list)
        return dict(zip(self.evaluator.output_names, map(np.asarray, outputs), strict=True))


def _double(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float64) if values.dtype.kind == "f" else values
