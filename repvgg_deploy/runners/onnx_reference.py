"""An ONNX model in float64, by the ONNX project's own reference evaluator: slow and exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..errors import UserError
from .protocol import Array

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


class OnnxFloat64Runner:
    """Every float constant of the model as float64, so that rounding plays no part."""

    runtime = "onnx reference (float64)"

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            model = onnx.load(path)
            self._evaluator = _in_float64(model)
        except Exception as error:  # the evaluator raises whatever a bad model makes it stumble on
            raise UserError(f"{path}: cannot be evaluated in float64: {error}") from error
        self._input = model.graph.input[0].name

    def load(self, batch: Array) -> None:
        self._feed = {self._input: batch.astype(np.float64)}

    def step(self) -> None:
        try:
            outputs = self._evaluator.run(None, self._feed)
        except Exception as error:
            raise UserError(f"{self._path}: cannot be run in float64: {error}") from error
        assert isinstance(outputs, list)
        self._logits = outputs[0]

    def output(self) -> NDArray[np.float64]:
        return np.asarray(self._logits, dtype=np.float64)


def _in_float64(model: onnx.ModelProto) -> ReferenceEvaluator:
    attributes = (a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))
    for tensor in (*model.graph.initializer, *attributes):
        if tensor.data_type in _FLOATS:
            exact = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
    return ReferenceEvaluator(model)
