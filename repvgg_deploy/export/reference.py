"""Reference networks as ONNX models, without a download."""

from __future__ import annotations

import onnx
from torch import nn

from ..models.reference import reference
from ..models.resnet import Residual
from .graph import BF16_OPSET, DEFAULT_OPSET, INPUT, Writer


def reference_onnx(
    name: str,
    image_size: tuple[int, int] = (224, 224),
    batch: int | None = None,
    *,
    precision: str = "fp32",
    num_classes: int = 1000,
) -> onnx.ModelProto:
    """``models.reference.reference(name)``, conv-BN folded: input [batch, 3, height, width],
    output [batch, num_classes], both in ``precision``; ``batch`` None: dynamic."""
    network, writer = reference(name, num_classes), Writer(precision)
    x = writer.op("Relu", "conv1", writer.conv("conv1", network.conv1, INPUT))
    x = writer.op("MaxPool", "maxpool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for block_name, block in network.blocks:
        x = _block(writer, block_name, block, x)
    writer.head("fc", network.fc, x)
    opset = BF16_OPSET if precision == "bf16" else DEFAULT_OPSET
    return writer.model(name, (batch, 3, *image_size), num_classes, opset)


def _block(writer: Writer, name: str, block: Residual, x: str) -> str:
    shortcut = x
    if block.downsample is not None:
        shortcut = _conv(writer, f"{name}.downsample.0", block.downsample[0], x)
    for number in range(1, block.depth + 1):
        conv = f"conv{number}"
        x = _conv(writer, f"{name}.{conv}", block.get_submodule(conv), x)
        if number < block.depth:
            x = writer.op("Relu", f"{name}.{conv}", x)
    return writer.op("Relu", name, writer.op("Add", name, x, shortcut))


def _conv(writer: Writer, name: str, conv: nn.Module, x: str) -> str:
    assert isinstance(conv, nn.Conv2d)
    return writer.conv(name, conv, x)
