"""Where the channels of a tensor can be scaled, and the network stays the same function.

ReLU is positively homogeneous, relu(k x) = k relu(x) for k > 0, and so are pooling and a gate's
multiplication. So what one convolution multiplies its output channels by, the layers behind can
divide out of their input channels (Nagel et al., Data-Free Quantization, ICCV 2019, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..reparam.graph.model import outer_names
from .layers import Layer, weighted_layers

_HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "Identity", "Dropout"}
_POOL_ALL = {"GlobalAveragePool", "GlobalMaxPool"}
_FLATTEN = {"Flatten", "Reshape", "Squeeze"}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scalable:
    """``producer``'s output channels, [C], can be scaled: ``readers`` divide the factors out.

    ``tensors`` are those that are scaled on the way.
    """

    producer: Layer
    readers: tuple[Layer, ...]
    tensors: frozenset[str]


def find_scalable(model: ModelProto) -> list[Scalable]:
    """Every convolution of a prepared model whose channels can be scaled, in order; a tensor
    belongs to one of them at most."""
    layers = {layer.name: layer for layer in weighted_layers(model)}
    outputs = {node.name: node.output[0] for node in model.graph.node}
    channels = _channels(model)
    found: list[Scalable] = []
    taken: set[str] = set()
    for layer in layers.values():
        if layer.kind != "Conv":
            continue
        spread = _spread(model, outputs[layer.name], layers)
        if spread is not None and taken.isdisjoint(spread[0]):
            tensors, readers = spread
            if any(channels[reader.name][0] != channels[layer.name][1] for reader in readers):
                continue  # a broadcast or a Reshape on the way has made others of them
            taken |= tensors
            found.append(Scalable(layer, tuple(readers), frozenset(tensors)))
    return found


def _spread(
    model: ModelProto, start: str, layers: Mapping[str, Layer]
) -> tuple[set[str], list[Layer]] | None:
    """All tensors that a scaled ``start`` scales, and who reads them; None: it cannot be scaled."""
    scaled, flat = {start}, set[str]()
    pooled: set[str] = set()
    readers: list[Layer] = []
    for node in model.graph.node:  # sorted: makers before readers
        if not scaled.isdisjoint(outer_names(node)):
            return None
        read = [name for name in node.input if name in scaled]
        if not read:
            continue
        layer = layers.get(node.name)
        first = read == [node.input[0]]
        if layer is not None and first and (layer.kind == "Gemm") == (read[0] in flat):
            readers.append(layer)
            continue
        if first and node.op_type in _HOMOGENEOUS and len(node.output) == 1:
            kept = pooled & set(read)
        elif first and (node.op_type in _POOL_ALL or _is_spatial_mean(node, model)):
            kept = set(read)
        elif first and node.op_type in _FLATTEN and read[0] in pooled:
            flat.update(node.output)
            kept = set(read)
        elif node.op_type == "Mul" and len(read) == 1 and read[0] not in flat:
            kept = set()
        else:
            return None
        scaled.update(node.output)
        if kept:
            pooled.update(node.output)
        if read[0] in flat:
            flat.update(node.output)
    if not readers or not scaled.isdisjoint(value.name for value in model.graph.output):
        return None
    return scaled, readers


def _is_spatial_mean(node: NodeProto, model: ModelProto) -> bool:
    """ReduceMean over height and width that keeps them, as axes of size 1."""
    if node.op_type != "ReduceMean":
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axes = attributes.get("axes")
    if len(node.input) > 1:
        held = _constants(model).get(node.input[1])
        axes = None if held is None else numpy_helper.to_array(held).tolist()
    return attributes.get("keepdims", 1) == 1 and sorted(axes or []) in ([2, 3], [-2, -1])


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    """Initializers and the tensors of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            found[node.output[0]] = node.attribute[0].t
    return found


def _channels(model: ModelProto) -> dict[str, tuple[int, int]]:
    """How many channels each weighted layer reads and makes, by name."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found = {}
    for layer in weighted_layers(model):
        made, read = shapes[layer.weight][:2]
        found[layer.name] = (made, read) if layer.transposed else (read * layer.groups, made)
    return found


def input_factors(layer: Layer, shape: tuple[int, ...], factors: Array) -> Array:
    """Factors [C] of a layer's input channels, laid out to divide its weight by.

    ``shape`` is that of the weight as [out, in/groups, ...]; the result broadcasts against it.
    """
    per_group = factors.reshape(layer.groups, shape[1])
    rows = per_group.repeat(shape[0] // layer.groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


def rescale(model: ModelProto, scalables: list[Scalable], factors: list[Array]) -> ModelProto:
    """A copy of a prepared model with the output channels of each producer times its factors [C],
    divided out by its readers: the same function."""
    result = ModelProto()
    result.CopyFrom(model)
    weights = {t.name: t for t in result.graph.initializer}
    touched: dict[str, tuple[Layer, Array]] = {}
    for layer in weighted_layers(model):
        values = numpy_helper.to_array(weights[layer.weight]).astype(np.float64)
        touched[layer.name] = layer, values.T if layer.transposed else values
    biases: dict[str, Array] = {}
    for scalable, k in zip(scalables, factors, strict=True):
        producer = scalable.producer
        layer, values = touched[producer.name]
        touched[producer.name] = layer, values * k.reshape(-1, *[1] * (values.ndim - 1))
        if producer.bias is not None:
            held = numpy_helper.to_array(weights[producer.bias]).astype(np.float64)
            biases[producer.bias] = held * k
        for reader in scalable.readers:
            layer, values = touched[reader.name]
            touched[reader.name] = layer, values / input_factors(reader, values.shape, k)
    for layer, values in touched.values():
        _store(weights[layer.weight], values.T if layer.transposed else values)
    for name, values in biases.items():
        _store(weights[name], values)
    return result


def _store(tensor: TensorProto, values: Array) -> None:
    name = tensor.name
    single = np.ascontiguousarray(values.astype(np.float32))
    tensor.CopyFrom(numpy_helper.from_array(single, name))
