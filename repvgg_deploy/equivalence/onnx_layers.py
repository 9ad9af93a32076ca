"""The Conv and Gemm nodes of an ONNX model with their weights, to be compared with those of torch
layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from ..reparam.graph.model import is_standard, to_array

WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class OnnxLayer:
    """``weight`` is as torch has it: a Gemm's [out, in]. None: not constant, or (bias) absent.

    ``geometry``: strides, pads (top, left, bottom, right), dilations and groups of a Conv; the
    factors of a Gemm.
    """

    name: str
    kind: str
    geometry: tuple[Any, ...]
    weight: Tensor | None
    bias: Tensor | None


def onnx_layers(model: ModelProto) -> list[OnnxLayer]:
    """In the order in which they run; ``model`` has its weights in the message."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in tensors:  # of shared weights
            tensors[node.output[0]] = tensors[node.input[0]]
    return [
        _layer(node, tensors)
        for node in model.graph.node
        if node.op_type in WEIGHTED and is_standard(node.domain)
    ]


def torch_layers(network: nn.Module) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Kind and geometry of every convolution and linear layer, as an exported model has them."""
    return dict(_torch_layers(network))


def _torch_layers(network: nn.Module) -> Iterator[tuple[str, tuple[str, tuple[Any, ...]]]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            pads = (*module.padding, *module.padding)
            yield name, ("Conv", (module.stride, pads, module.dilation, module.groups))
        elif isinstance(module, nn.Linear):
            yield name, ("Gemm", (1.0, 1.0, 0))


def to_tensor(tensor: TensorProto, folder: Path | None = None) -> Tensor:
    """The numbers of a tensor in its own type; what is not floats as bytes.

    ``folder`` is where external data lies.
    """
    if tensor.data_type == TensorProto.STRING:
        return torch.tensor(list(b"\0".join(tensor.string_data)), dtype=torch.uint8)
    array = to_array(tensor, folder)
    if tensor.data_type == TensorProto.BFLOAT16:  # which NumPy does not have
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    if array.dtype.kind == "f" and array.dtype.itemsize > 1:
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy())


def _layer(node: NodeProto, tensors: dict[str, TensorProto]) -> OnnxLayer:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight, bias = (
        to_tensor(tensors[name]) if name in tensors else None
        for name in (*node.input[1:], "", "")[:2]
    )
    if node.op_type == "Gemm":
        weight = weight if weight is None or found.get("transB") else weight.T
        geometry: tuple[Any, ...] = (
            found.get("alpha", 1.0),
            found.get("beta", 1.0),
            found.get("transA", 0),
        )
    else:
        axes = 2 if weight is None else weight.ndim - 2
        pads = tuple(found.get("pads", (0,) * 2 * axes))
        if found.get("auto_pad", b"NOTSET") != b"NOTSET":
            pads = (found["auto_pad"],)
        one = (1,) * axes
        strides, dilations = tuple(found.get("strides", one)), tuple(found.get("dilations", one))
        geometry = (strides, pads, dilations, found.get("group", 1))
    return OnnxLayer(node.name or node.output[0], node.op_type, geometry, weight, bias)
