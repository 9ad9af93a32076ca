"""ONNX Runtime has no bf16 convolution on the CPU: there a bf16 model runs in float32."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper


def widened(model: ModelProto) -> ModelProto:
    """The same graph with the same bf16 weights, stored and computed in float32.

    A bf16 number is a float32 whose lower half is zero, so no weight changes.
    """
    wide = ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]  # inner tensors get their types from the weights
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return wide
