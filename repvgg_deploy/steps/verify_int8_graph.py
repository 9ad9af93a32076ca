"""verify, of an int8 ONNX model of any graph: layer by layer, since torch has no network of it."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor
from torch.nn import functional

from ..equivalence.compare import Comparison, compare
from ..equivalence.graph_weights import bare
from ..equivalence.onnx_layers import to_tensor
from ..errors import UserError
from ..quantize.fake import Int8State, quantize, read_int8
from ..quantize.integers import run_exposed
from ..quantize.layers import QuantizedLayer, layer_key
from ..quantize.qdq import insert_qdq
from ..quantize.read import QdqModel, read_qdq
from ..reparam.graph.files import load_model
from ..runners.onnx_info import OnnxInfo, read_onnx_info
from ..runners.onnx_operators import find_padding
from ..runners.onnx_session import Arrays
from ..runners.torch_network import exact_math
from .against_weights import pick_samples
from .int8_proof import IntegerProof, LayerIntegers
from .verdict import Verdict
from .verify_int8 import changed_tensors, foreign, integers_file
from .weights import TORCH_DTYPE

#: Types of weights and scales, which the file beside the model has.
_WEIGHTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
_ELEMENT = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def verify_int8_graph(
    reference: Path, candidate: Path, images: Path | None, size: tuple[int, int] = (0, 0)
) -> Verdict:
    """Compare weights, scales and biases with the file beside, then each layer's work.

    ``size`` is the (height, width) of the noise for a graph that takes any, 0: PROOF_SIZE.

    Raises:
        UserError: a file that cannot be used, a graph of several inputs, or images that it does not
            take.
    """
    info = read_onnx_info(candidate, any_outputs=True, any_size=True)
    model = load_model(candidate)
    state = read_int8(integers_file(candidate))
    changed = foreign(reference, candidate) or changed_tensors(model, state, info.precision)
    changed = changed or _changed_nodes(load_model(reference), model, info.precision)
    proof = IntegerProof(tuple(changed), len(state.scales), info.precision)
    if not changed:
        image = (info.channels, info.height, info.width)
        if images is None:
            image = (info.channels, info.height or size[0], info.width or size[1])
        samples = pick_samples(candidate, image, info.batch or 1, info.batch, images)
        proof = _run(info, model, state, *samples)
    return Verdict(reference, candidate, None, None, "cpu", integers=proof)


def _changed_nodes(reference: ModelProto, model: ModelProto, precision: str) -> list[str]:
    """What lies between the quantized layers is the reference's own: put into int8 once more, it
    has the same nodes, and the same integers and strings (sizes, axes) beside the weights."""
    try:
        expected = insert_qdq(reference, read_qdq(model).layers, precision)
    except (UserError, ValueError) as error:
        return [f"its reference cannot be quantized as it is ({str(error).removesuffix('.')})"]
    for meant, found in zip_longest(expected.graph.node, model.graph.node):
        if found is None:
            return [f"it lacks the node {meant.name} of the reference in int8"]
        if meant is None or bare(meant) != bare(found):
            return [f"its node {found.name or found.output[0]} is not one of the reference in int8"]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        f"{tensor.name} is not what the reference holds"
        for tensor in expected.graph.initializer
        if tensor.data_type not in _WEIGHTS
        and not (tensor.name in stored and _same(tensor, stored[tensor.name]))
    ]


def _same(one: TensorProto, other: TensorProto) -> bool:
    return one.data_type == other.data_type and torch.equal(to_tensor(one), to_tensor(other))


def _run(
    info: OnnxInfo, model: ModelProto, state: Int8State, samples: NDArray[np.float32], batch: int
) -> IntegerProof:
    found = read_qdq(model)
    sources = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    outputs = {n.name or n.output[0]: n.output[0] for n in model.graph.node if n.output}
    floats = {outputs[layer.name] for layer in found.layers}
    floats |= {sources[tensor] for tensor in found.inputs.values()} - {info.input}
    inner = dict.fromkeys(floats, _ELEMENT[info.precision])
    inner |= dict.fromkeys(found.inputs.values(), TensorProto.INT8)
    values = run_exposed(info.path, model, inner, info.input, samples, batch)
    values[info.input] = torch.tensor(samples).to(TORCH_DTYPE[info.precision]).numpy()
    integers = tuple(
        LayerIntegers.of(
            layer_key(layer.name),
            quantize(torch.tensor(values[sources[tensor]]), layer.input_scale).numpy(),
            values[tensor],
        )
        for layer, tensor in zip(found.layers, found.inputs.values(), strict=True)
    )
    sums = _compare_sums(model, found, state, values, info.precision)
    return IntegerProof((), len(state.scales), info.precision, integers, sums=sums)


def _compare_sums(
    model: ModelProto, found: QdqModel, state: Int8State, values: Arrays, precision: str
) -> tuple[Comparison, ...]:
    """What each layer makes of the integers that it read, in ONNX Runtime and in torch."""
    nodes = {node.name or node.output[0]: node for node in model.graph.node}
    comparisons = []
    for layer in found.layers:
        node = nodes[layer.name]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        integers = torch.tensor(values[found.inputs[layer.name]])
        with exact_math():
            truth, own = (
                _layer(layer, integers, state, attributes, dtype)
                for dtype in (torch.float64, TORCH_DTYPE[precision])
            )
        theirs = values[node.output[0]]
        comparisons.append(compare(layer.name, truth, own, theirs, precision))
    return tuple(comparisons)


def _layer(
    layer: QuantizedLayer,
    integers: Tensor,
    state: Int8State,
    attributes: dict[str, Any],
    dtype: torch.dtype,
) -> NDArray[Any]:
    """A Conv or Gemm in torch, of the integers it read."""
    x = integers.to(dtype) * layer.input_scale
    weight = state.weight(layer_key(layer.name), dtype)
    bias = None if layer.bias is None else torch.tensor(layer.bias).to(dtype)
    if weight.ndim == 2:
        return functional.linear(x, weight, bias).numpy()
    strides, dilations = (attributes.get(name, (1, 1)) for name in ("strides", "dilations"))
    (top, left), (bottom, right) = find_padding(
        attributes.get("auto_pad", b"NOTSET").decode(),
        x.shape[2:],
        weight.shape[2:],
        strides,
        dilations,
        attributes.get("pads"),
    )
    padded = functional.pad(x, (left, right, top, bottom))
    groups = attributes.get("group", 1)
    return functional.conv2d(padded, weight, bias, strides, 0, dilations, groups).numpy()
