"""One ONNX node as a linear operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from onnx import NodeProto, helper

from ..geometry import Geometry, NotOneConv
from ..linear import LinearConv
from .channels import ELEMENTWISE
from .convolution import read_average_pool, read_conv, read_pad
from .index import READ, GraphIndex


@dataclass(frozen=True)
class Operation:
    """The sum over ``inputs`` of one convolution each, all of the shape ``geometry``.

    ``weights`` makes those convolutions; kernels are read then and not before.
    """

    inputs: tuple[str, ...]
    geometry: Geometry
    weights: Callable[[], tuple[LinearConv, ...]]
    is_conv: bool = False


def read_operation(
    node: NodeProto, index: GraphIndex, channels: dict[str, int]
) -> Operation | None:
    """The linear operation of a node; None where it is not meant to be one.

    Raises:
        NotOneConv: a linear operator in a form that no convolution of fixed weights can hold.
    """
    if not index.is_standard(node):
        return None
    if node.op_type not in READ:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv" and not index.is_constant(node.input[0]):
        geometry, weights = read_conv(node, attributes, index)
        return Operation((node.input[0],), geometry, lambda: (weights(),), is_conv=True)
    if node.op_type in (*ELEMENTWISE, "Sum"):
        return _read_elementwise(node, index, channels)
    count = channels.get(node.input[0]) if node.input else None
    if count is None or index.is_constant(node.input[0]):
        return None
    if node.op_type == "AveragePool":
        geometry, weights = read_average_pool(attributes, count)
        return Operation((node.input[0],), geometry, lambda: (weights(),))
    if node.op_type == "Pad":
        return _small(node, read_pad(node, attributes, index, count))
    if node.op_type == "BatchNormalization":
        return _small(node, _read_batch_norm(node, attributes, index, count))
    if node.op_type in ("Identity", "Neg"):
        return _small(node, _scale(count, 1.0 if node.op_type == "Identity" else -1.0))
    return None


def _small(node: NodeProto, conv: LinearConv) -> Operation:
    """A map with a few numbers a channel is made at once."""
    return Operation((node.input[0],), conv.geometry, lambda: (conv,))


def _scale(channels: int, factor: float) -> LinearConv:
    return LinearConv.scale(torch.full((channels,), factor), torch.zeros(channels))


def _read_batch_norm(
    node: NodeProto, attributes: dict[str, Any], index: GraphIndex, channels: int
) -> LinearConv:
    if attributes.get("training_mode", 0) or len([name for name in node.output if name]) > 1:
        raise NotOneConv(
            "batch norm in training mode takes its statistics from the batch; export the model in "
            "eval mode"
        )
    if not attributes.get("spatial", 1):
        raise NotOneConv("batch norm with spatial=0 has statistics for every pixel")
    index.check_weights(node.input[1:])
    gamma, beta, mean, var = (
        torch.from_numpy(index.numbers(name)).flatten() for name in node.input[1:]
    )
    if any(len(values) != channels for values in (gamma, beta, mean, var)):
        raise NotOneConv(f"its statistics are not for the {channels} channels of its input")
    return LinearConv.batch_norm(gamma, beta, mean, var, attributes.get("epsilon", 1e-5))


def _read_elementwise(
    node: NodeProto, index: GraphIndex, channels: dict[str, int]
) -> Operation | None:
    operands = [name for name in node.input if not index.is_constant(name)]
    counts = {channels[name] for name in operands if name in channels}
    if not counts:
        return None
    count = counts.pop()
    if len(operands) == len(node.input):
        return _read_join(node, operands, channels, count)
    if node.op_type == "Sum":
        raise NotOneConv("a Sum with constants among its operands is not looked into; use Add")
    conv = _with_constant(node, index, count)
    return Operation((operands[0],), conv.geometry, lambda: (conv,))


def _read_join(
    node: NodeProto, operands: list[str], channels: dict[str, int], count: int
) -> Operation | None:
    """A sum or difference of branches."""
    if node.op_type in ("Mul", "Div"):
        return None  # a gate: not linear, and nobody expects it to be
    for name in operands:
        if name not in channels:
            raise NotOneConv(f"nothing tells how many channels its branch {name!r} has")
        if channels[name] != count:
            raise NotOneConv(f"tensors of {channels[name]} and {count} channels are broadcast")
    signs = [1.0] * len(operands)
    if node.op_type == "Sub":
        signs[1] = -1.0
    branches = tuple(_scale(count, sign) for sign in signs)
    return Operation(tuple(operands), Geometry.per_channel(count), lambda: branches)


def _with_constant(node: NodeProto, index: GraphIndex, channels: int) -> LinearConv:
    """x op constant, or constant op x, as ``x * factor + offset``."""
    constant_first = index.is_constant(node.input[0])
    name = node.input[0] if constant_first else node.input[1]
    shape = index.shape(name)
    scalar = len(shape) <= 4 and all(size == 1 for size in shape)
    if not scalar and shape not in ((channels, 1, 1), (1, channels, 1, 1)):
        raise NotOneConv(
            f"a constant of shape {list(shape)} is neither a scalar nor one number a channel"
        )
    constant = torch.from_numpy(index.numbers(name)).flatten().expand(channels)
    factor, offset = torch.ones(channels).double(), torch.zeros(channels).double()
    if node.op_type == "Mul":
        factor = constant
    elif node.op_type == "Div":
        if constant_first:
            raise NotOneConv("a constant divided by a tensor is not linear")
        factor = 1 / constant
    elif node.op_type == "Add":
        offset = constant
    else:
        offset = constant if constant_first else -constant
        factor = -factor if constant_first else factor
    if not bool((factor.isfinite() & offset.isfinite()).all()):
        raise NotOneConv("a constant is zero in a division, infinite or not a number")
    return LinearConv.scale(factor, offset)
