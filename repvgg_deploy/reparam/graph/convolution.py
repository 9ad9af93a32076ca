"""The ONNX operators with a window: Conv, AveragePool and Pad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx import NodeProto, TensorProto

from ..geometry import Geometry, NotOneConv, Pads, Pair
from ..linear import LinearConv
from .index import GraphIndex

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

Lazy = Callable[[], LinearConv]


def read_conv(
    node: NodeProto, attributes: dict[str, Any], index: GraphIndex
) -> tuple[Geometry, Lazy]:
    """A Conv; its kernel is read when the second value is called."""
    inputs = [name for name in node.input if name]
    index.check_weights(inputs[1:])
    kernel = inputs[1]
    shape, groups = index.shape(kernel), attributes.get("group", 1)
    if len(shape) != 4:
        raise NotOneConv(f"a {len(shape) - 2}-D convolution; only 2-D ones are fused")
    if index.data_type(kernel) not in FLOATS:
        raise NotOneConv("its weights are of another type than float, float16 and double")
    if groups < 1 or shape[0] % groups or not all(shape):
        raise NotOneConv(f"{shape[0]} output channels do not divide into {groups} groups")
    if list(attributes.get("kernel_shape", shape[2:])) != list(shape[2:]):
        raise NotOneConv("its kernel_shape is not that of its weights")
    stride, dilation = _pair(attributes, "strides"), _pair(attributes, "dilations")
    pads = _pads(attributes, shape[2:], stride, dilation)
    bias = torch.from_numpy(index.numbers(inputs[2])) if len(inputs) > 2 else None
    if bias is not None and bias.shape != (shape[0],):
        raise NotOneConv(f"its bias is not for {shape[0]} channels")
    biased = bias is not None and bool(bias.any())
    size = (shape[2], shape[3])
    geometry = Geometry(shape[1] * groups, shape[0], size, stride, pads, dilation, groups, biased)

    def weights() -> LinearConv:
        weight = torch.from_numpy(index.numbers(kernel))
        return LinearConv.conv(
            weight, bias, stride=stride, padding=pads, dilation=dilation, groups=groups
        )

    return geometry, weights


def read_average_pool(attributes: dict[str, Any], channels: int) -> tuple[Geometry, Lazy]:
    """An AveragePool, a depthwise convolution."""
    size = attributes["kernel_shape"]
    if len(size) != 2 or min(size) < 1:
        raise NotOneConv(f"{len(size)}-D pooling; only 2-D is fused")
    if attributes.get("ceil_mode", 0):
        raise NotOneConv("average pooling with ceil_mode reads past the border")
    if any(step != 1 for step in attributes.get("dilations", ())):
        raise NotOneConv("dilated average pooling is not fused")
    kernel, stride = (size[0], size[1]), _pair(attributes, "strides")
    pads = _pads(attributes, size, stride, (1, 1))
    if any(pads) and not attributes.get("count_include_pad", 0):
        raise NotOneConv("average pooling that leaves out the padding weighs borders differently")
    geometry = Geometry(channels, channels, kernel, stride, pads, groups=channels)
    return geometry, lambda: LinearConv.average_pool(channels, kernel, stride=stride, padding=pads)


def read_pad(
    node: NodeProto, attributes: dict[str, Any], index: GraphIndex, channels: int
) -> LinearConv:
    """A Pad with zeros of height and width."""
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant":
        raise NotOneConv(f"padding mode {mode!r} is not zero padding")
    inputs = [*node.input, "", "", ""][1:4]
    computed = [name for name in inputs if name and not index.is_constant(name)]
    if computed and all(index.follows_from_constants(name) for name in computed):
        raise NotOneConv(
            "its padding is computed by other nodes; run `onnxsim model.onnx simple.onnx` first"
        )
    if computed:
        raise NotOneConv("its padding is not constant")
    value = index.numbers(inputs[1]).sum() if inputs[1] else attributes.get("value", 0.0)
    if value:
        raise NotOneConv(f"padding with {value:g} is not zero padding")
    sizes = index.numbers(inputs[0]).tolist() if inputs[0] else attributes["pads"]
    if not inputs[2] and len(sizes) != 8:
        raise NotOneConv(f"its pads are {len(sizes)} numbers, and a 2-D operator takes 8")
    axes = index.numbers(inputs[2]).tolist() if inputs[2] else range(4)
    before = {int(axis) % 4: int(size) for axis, size in zip(axes, sizes, strict=False)}
    after = {
        int(axis) % 4: int(size) for axis, size in zip(axes, sizes[len(before) :], strict=False)
    }
    if any(side.get(axis, 0) for side in (before, after) for axis in (0, 1)):
        raise NotOneConv("padding of the batch or the channels")
    top, left, bottom, right = (side.get(axis, 0) for side in (before, after) for axis in (2, 3))
    if min(top, left, bottom, right) < 0:
        raise NotOneConv("negative padding crops the image")
    return LinearConv.zero_pad(channels, (top, left, bottom, right))


def _pair(attributes: dict[str, Any], name: str) -> Pair:
    values = attributes.get(name) or (1, 1)
    if len(values) != 2 or min(values) < 1:
        raise NotOneConv(f"its {name} are {list(values)}, and a 2-D operator takes two sizes")
    return values[0], values[1]


def _pads(attributes: dict[str, Any], size: Any, stride: Pair, dilation: Pair) -> Pads:
    """Explicit padding, also of auto_pad where that does not hang on the image's size."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        pads = attributes.get("pads") or (0, 0, 0, 0)
        if len(pads) != 4:
            raise NotOneConv(f"its pads are {len(pads)} numbers, and a 2-D operator takes 4")
        top, left, bottom, right = pads
        if min(top, left, bottom, right) < 0:
            raise NotOneConv("negative padding crops the image")
        return top, left, bottom, right
    if auto == "VALID":
        return 0, 0, 0, 0
    if any(step > 1 and length > 1 for step, length in zip(stride, size, strict=True)):
        raise NotOneConv(f"padding {auto} at stride {list(stride)} hangs on the image's size")
    total = [step * (length - 1) for step, length in zip(dilation, size, strict=True)]
    small = [length // 2 for length in total]
    large = [length - half for length, half in zip(total, small, strict=True)]
    first, last = (small, large) if auto == "SAME_UPPER" else (large, small)
    return first[0], first[1], last[0], last[1]
