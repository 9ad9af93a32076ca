"""QuantizeLinear and DequantizeLinear nodes put into a graph, as TensorRT wants them.

A weighted layer runs in int8 where both its input and its weight come from a DequantizeLinear; its
output, the activation behind it and everything else stay in float, and the builder fuses the next
QuantizeLinear into the layer by itself (TensorRT documentation, "Q/DQ Layer-Placement
Recommendations": quantize all inputs of weighted operations, and not their outputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ..errors import UserError
from .half import to_half
from .layers import Layer, QuantizedLayer, find_layers
from .prepare import fresh, prepare

FLOAT = {"fp32": np.float32, "fp16": np.float16}


def representable(scales: NDArray[np.floating], float_type: str) -> NDArray[np.float32]:
    """The nearest scales that ``float_type`` holds exactly, none of them 0."""
    kind = FLOAT[float_type]
    info = np.finfo(kind)
    inside = np.clip(np.asarray(scales, np.float64), info.smallest_subnormal, info.max)
    return inside.astype(kind).astype(np.float32)


def insert_qdq(model: ModelProto, layers: Sequence[QuantizedLayer], float_type: str) -> ModelProto:
    """A Q/DQ model of an fp32 one, ``layers`` in int8 and all else in ``float_type``.

    One pair of nodes serves all layers that read a tensor with one scale. Scales, zero points and
    int8 weights are initializers, named after the layer (``stage0.rbr_reparam.weight_scale``).

    Raises:
        ValueError: a layer that the model has not, or of another shape, or a scale that is not
            positive or that ``float_type`` does not hold exactly.
        UserError: fp16, and operators or numbers that do not go into it.
    """
    model = prepare(model)
    known = {layer.name: layer for layer in find_layers(model, linear=True)}
    chosen = {layer.name: layer for layer in layers}
    if strange := [name for name in chosen if name not in known]:
        raise ValueError(f"{strange[0]!r} is no layer of the model that can be quantized")
    writer = _Writer(model, FLOAT[float_type])
    for node in model.graph.node:
        if node.name in chosen:
            writer.quantize(node, known[node.name], chosen[node.name])
        writer.nodes.append(node)
    quantized = writer.finish(model)
    if float_type == "fp16":
        quantized = to_half(quantized)
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"the quantized model is not valid ONNX ({' '.join(str(error).split())[:200]})"
            + ("; use fp32 for what is not quantized." if float_type == "fp16" else ".")
        ) from error
    return quantized


class _Writer:
    """The nodes and initializers of the quantized graph as they come."""

    def __init__(self, model: ModelProto, kind: type[np.floating]) -> None:
        graph = model.graph
        self.nodes: list[NodeProto] = []
        self._arrays: dict[str, NDArray[np.generic]] = {}
        self._kind = kind
        self._dropped: set[str] = set()
        self._pairs: dict[tuple[str, float], str] = {}
        self._taken = {name for node in graph.node for name in (node.name, *node.output)}
        self._taken |= {value.name for value in graph.input}

    def quantize(self, node: NodeProto, layer: Layer, values: QuantizedLayer) -> None:
        """Give ``node`` its quantized input, weight and bias."""
        self._dropped.update(filter(None, (layer.weight, layer.bias)))
        node.input[0] = self._activation(layer, values.input_scale)
        node.input[1] = self._weight(layer, values)
        del node.input[2:]
        if values.bias is not None:
            node.input.append(self._array(f"{layer.key}.bias", values.bias.astype(np.float32)))
        if layer.transposed:  # ours is [out, in]
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("transB", 1))

    def _activation(self, layer: Layer, scale: float) -> str:
        pair = (layer.input, scale)
        if pair not in self._pairs:
            scales = self._scale(f"{layer.key}.input_scale", np.asarray(scale))
            zero = self._array(f"{layer.key}.input_zero_point", np.zeros((), np.int8))
            integers = self._node("QuantizeLinear", layer.key, [layer.input, scales, zero])
            self._pairs[pair] = self._node("DequantizeLinear", layer.key, [integers, scales, zero])
        return self._pairs[pair]

    def _weight(self, layer: Layer, values: QuantizedLayer) -> str:
        outputs = len(values.weight)
        if values.weight.dtype != np.int8 or values.weight_scales.shape != (outputs,):
            raise ValueError(f"{layer.name}: the weight is not int8 with a scale an output channel")
        key = f"{layer.key}.weight"
        weight = self._array(key, values.weight)
        scales = self._scale(f"{key}_scale", values.weight_scales)
        zero = self._array(f"{key}_zero_point", np.zeros(outputs, np.int8))
        return self._node("DequantizeLinear", key, [weight, scales, zero], axis=0)

    def _scale(self, name: str, scales: NDArray[np.floating]) -> str:
        exact = scales.astype(self._kind)
        if not (np.isfinite(exact).all() and (exact > 0).all()):
            raise ValueError(f"{name} is not positive in {self._kind.__name__}")
        if (exact.astype(np.float32) != scales.astype(np.float32)).any():
            raise ValueError(f"{name} is not one that {self._kind.__name__} holds exactly")
        return self._array(name, exact)

    def _array(self, name: str, values: NDArray[np.generic]) -> str:
        name = fresh(name, self._taken)
        self._arrays[name] = values
        return name

    def _node(self, kind: str, key: str, inputs: list[str], **attributes: Any) -> str:
        output = fresh(f"{key}/{kind}", self._taken)
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def finish(self, model: ModelProto) -> ModelProto:
        """``model`` with these nodes and initializers."""
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        kept = [t for t in model.graph.initializer if t.name not in self._dropped]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self._arrays.items())
        result = ModelProto()
        result.CopyFrom(model)
        result.graph.CopyFrom(graph)
        return result
