"""How good an int8 model is: on all test images, in ONNX Runtime, against the fp32 model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from .method import Images

BATCH = 250
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Top-1 and agreement (the same class as fp32) in percent; SQNR of the logits in dB.

    ``top1_drop`` is in points below fp32. ``float_convs`` convolutions were left in float, those of
    squeeze-excitation not counted. ``seconds`` is what quantizing took.
    """

    top1: float
    top1_drop: float
    agreement: float
    sqnr_db: float
    float_convs: int
    seconds: float


def logits(model: onnx.ModelProto, images: Images) -> Logits:
    """The model's output [N, classes], every node run as it stands (ORT_DISABLE_ALL)."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may run here
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    starts = range(0, len(images), BATCH)
    parts = [session.run(None, {name: images[start : start + BATCH]})[0] for start in starts]
    return np.concatenate(parts)


def top1(found: Logits, labels: NDArray[np.int64]) -> float:
    """Share of right answers, in percent."""
    return 100 * float((found.argmax(1) == labels).mean())


def agreement(reference: Logits, found: Logits) -> float:
    """Share of images that get the same class, in percent."""
    return 100 * float((reference.argmax(1) == found.argmax(1)).mean())


def sqnr_db(reference: Logits, found: Logits) -> float:
    """Signal to quantization noise, 10 log10(sum ref^2 / sum (ref - found)^2); inf where equal."""
    wide = reference.astype(np.float64)
    noise = np.square(wide - found.astype(np.float64)).sum()
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(wide).sum() / noise))


def squeeze_excite_convs(model: onnx.ModelProto) -> list[str]:
    """Names of the 1x1 convolutions: a deployed RepVGG has no others than squeeze-excitation's."""
    kernels = {tensor.name: tuple(tensor.dims[2:]) for tensor in model.graph.initializer}
    convs = (node for node in model.graph.node if node.op_type == "Conv")
    return [conv.name for conv in convs if kernels.get(conv.input[1]) == (1, 1)]


def block_convs(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions that are to be int8: one a block."""
    convs = {node.name for node in model.graph.node if node.op_type == "Conv"}
    return convs - set(squeeze_excite_convs(model))


def int8_convs(model: onnx.ModelProto) -> set[str]:
    """Names of the Conv nodes that read input and weight from a DequantizeLinear."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    }


def score(
    fp32: onnx.ModelProto,
    int8: onnx.ModelProto,
    images: Images,
    labels: NDArray[np.int64],
    reference: Logits,
    seconds: float,
) -> Score:
    """Judge an int8 model by the fp32 model's logits."""
    found = logits(int8, images)
    return Score(
        top1=top1(found, labels),
        top1_drop=top1(reference, labels) - top1(found, labels),
        agreement=agreement(reference, found),
        sqnr_db=sqnr_db(reference, found),
        float_convs=len(block_convs(fp32) - int8_convs(int8)),
        seconds=seconds,
    )
