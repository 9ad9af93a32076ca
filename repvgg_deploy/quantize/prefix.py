"""A model with layers fake-quantized, and the part of one that a tensor depends on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .layers import QuantizedLayer, find_layers


def prefix(model: ModelProto, tensor: str) -> ModelProto:
    """What ``tensor`` is computed by; it is the only output. Nodes are sorted."""
    wanted, nodes = {tensor}, list[NodeProto]()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.output[:]
    del result.graph.value_info[:]
    result.graph.node.extend(reversed(nodes))
    result.graph.initializer.extend(t for t in model.graph.initializer if t.name in wanted)
    result.graph.output.append(ValueInfoProto(name=tensor))
    return result


def fake_quantized_prefix(
    model: ModelProto, tensor: str, done: Sequence[QuantizedLayer]
) -> ModelProto:
    """The same with ``done`` fake-quantized."""
    return prefix(fake_quantized_model(model, done), tensor)


def fake_quantized_model(model: ModelProto, layers: Sequence[QuantizedLayer]) -> ModelProto:
    """A copy with the inputs of ``layers`` rounded, and their weights what their integers stand
    for, in float32."""
    result = ModelProto()
    result.CopyFrom(model)
    chosen = {layer.name: layer for layer in layers}
    known = {layer.name: layer for layer in find_layers(model, linear=True)}
    weights = {t.name: t for t in result.graph.initializer}
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        if node.name in chosen:
            layer, place = chosen[node.name], known[node.name]
            weight = layer.dequantized()
            values = np.ascontiguousarray(weight.T if place.transposed else weight)
            weights[place.weight].CopyFrom(numpy_helper.from_array(values, place.weight))
            key = f"{node.name}/fake"
            if layer.bias is not None:
                bias = numpy_helper.from_array(layer.bias, place.bias or f"{key}.bias")
                if place.bias is None:
                    result.graph.initializer.append(bias)
                    node.input.extend([""] * (2 - len(node.input)))
                    node.input.append(bias.name)
                else:
                    weights[place.bias].CopyFrom(bias)
            rounding, constants = _rounding(key, node.input[0], layer.input_scale)
            result.graph.initializer.extend(constants)
            nodes += rounding
            node.input[0] = rounding[-1].output[0]
        nodes.append(node)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result


def _rounding(key: str, tensor: str, scale: float) -> tuple[list[NodeProto], list[TensorProto]]:
    """Fake quantization of a tensor by plain arithmetic: Q/DQ nodes are what ONNX Runtime's
    optimisations move about, and results with them."""
    constants = [
        numpy_helper.from_array(np.float32(value), f"{key}.{name}")
        for name, value in (("scale", scale), ("lowest", -128), ("highest", 127))
    ]
    held, lowest, highest = (constant.name for constant in constants)
    operands: dict[str, list[str]] = {
        "Div": [held], "Round": [], "Clip": [lowest, highest], "Mul": [held],
    }  # fmt: skip
    nodes = []
    for kind, others in operands.items():
        nodes.append(helper.make_node(kind, [tensor, *others], [f"{key}.{kind}"]))
        tensor = f"{key}.{kind}"
    return nodes, constants
