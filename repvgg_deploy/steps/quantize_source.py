"""The float network that quantize starts from: our fused weights, or an ONNX model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from ..data.image_set import ImageSet
from ..errors import UserError
from ..export.graph import to_onnx
from ..export.simplify import simplify
from ..files import is_onnx
from ..reparam.graph.files import load_model, read_model, read_proto
from ..reparam.graph.plan import make_plan
from ..reparam.graph.rewrite import carry_out
from .calibration import Calibration
from .weights import read_weights


@dataclass(frozen=True)
class ImageInput:
    """What a network takes, [N, C, H, W]; 0 is any number."""

    batch: int
    channels: int
    height: int
    width: int


def read_input(source: Path) -> ImageInput:
    """Of fused weights, or of a fused fp32 ONNX model with one image input and any outputs.

    Raises:
        UserError: none of these.
    """
    if not is_onnx(source):
        return ImageInput(0, read_weights(source).network.spec.in_channels, 0, 0)
    graph = read_proto(source).graph
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        raise UserError(
            f"{source}: holds Q/DQ nodes already; give the float model that it was made from."
        )
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    kinds = [value.type.tensor_type.elem_type for value in inputs]
    if kinds != [TensorProto.FLOAT] or len(shape) != 4 or min(shape) < 0 or not shape[1]:
        raise UserError(
            f"{source}: its inputs are {[value.name for value in inputs]}; quantize takes a model "
            "with one fp32 image input [batch, C, H, W], C fixed, so export it as one."
        )
    _check_fused(source)
    return ImageInput(*shape)


def _check_fused(source: Path) -> None:
    """Each branch would be rounded by itself, and a batch norm stay behind."""
    fused, _ = carry_out(make_plan(read_model(source)))
    if fused:
        raise UserError(
            f"{source}: is not fused yet ({len(fused)} parts of it can become one convolution "
            "each); run repvgg-deploy fuse on it and quantize what that writes."
        )


def float_model(source: Path, calibration: Calibration) -> onnx.ModelProto:
    """The fp32 ONNX model, of fused weights at the size of the images, or a user's own.

    Raises:
        UserError: no whole network, external data that cannot be read, or images that the model
            does not take.
    """
    images = calibration.fit
    _, height, width = images.shape
    if not is_onnx(source):
        network = read_weights(source).network
        return simplify(to_onnx(network.build(), (height, width)), network.spec.has_se)
    taken = read_input(source)
    if taken.height not in (0, height) or taken.width not in (0, width):
        raise UserError(
            f"{images.path}: its images are {height}x{width} pixels after preprocessing, and "
            f"{source} takes {taken.height}x{taken.width}; preprocess them as in training."
        )
    _check_batch(source, taken.batch, images, calibration.measured)
    return load_model(source)


def _check_batch(source: Path, batch: int, *sets: ImageSet) -> None:
    fewest = min(map(len, sets))
    if batch > fewest:
        raise UserError(
            f"{source}: takes {batch} images at once, and there are {fewest} to calibrate with or "
            "to measure on; give more, or export it with a dynamic batch."
        )
