"""ONNX models with Q/DQ nodes as facts.md section 4 has them, for engines; no calibration."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_STORED = {"int8": (np.int8, 127), "fp8": (ml_dtypes.float8_e4m3fn, 448)}
_FLOAT = {"fp32": (np.float32, TensorProto.FLOAT), "fp16": (np.float16, TensorProto.FLOAT16)}


def quantized(model: onnx.ModelProto, kind: str, head: str) -> onnx.ModelProto:
    """``model`` (fp32) with every Conv's input and weight in ``kind``, all else in ``head``.

    Symmetric; activations by one made-up scale a tensor, weights by one for each output channel.
    """
    (stored, largest), (number, element) = _STORED[kind], _FLOAT[head]
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.opset_import[0].version, model.ir_version = 19, 9
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = element
    weights = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in graph.initializer}
    nodes, arrays = [], {}

    def linear(kind: str, name: str, source: str, scale: str, zero: str) -> str:
        node = helper.make_node(kind, [source, scale, zero], [name], name=name, axis=0)
        nodes.append(node)
        return name

    for node in graph.node:
        if node.op_type == "Conv":
            key, kernel = node.name, weights.pop(node.input[1])
            scales = np.abs(kernel).max((1, 2, 3)) / largest
            parts = kernel / scales[:, None, None, None]
            arrays |= {
                f"{key}.s": np.asarray(0.05, number),
                f"{key}.z": np.zeros((), stored),
                f"{key}.w": (np.round(parts) if kind == "int8" else parts).astype(stored),
                f"{key}.ws": scales.astype(number),
                f"{key}.wz": np.zeros(scales.shape, stored),
            }
            q = linear("QuantizeLinear", f"{key}.q", node.input[0], f"{key}.s", f"{key}.z")
            node.input[0] = linear("DequantizeLinear", f"{key}.dq", q, f"{key}.s", f"{key}.z")
            node.input[1] = linear(
                "DequantizeLinear", f"{key}.wdq", f"{key}.w", f"{key}.ws", f"{key}.wz"
            )
        nodes.append(node)
    arrays |= {name: values.astype(number) for name, values in weights.items()}
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    return model
