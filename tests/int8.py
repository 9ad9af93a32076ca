"""Quantized layers with made-up activation scales, for tests of what is made of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repvgg_deploy.artifacts import QuantizedArtifact, Source
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.files import sha256_file
from repvgg_deploy.quantize.fake import int8_tensors, to_bytes
from repvgg_deploy.quantize.layers import Layer, QuantizedLayer, find_layers
from repvgg_deploy.quantize.prepare import prepare
from repvgg_deploy.quantize.qdq import insert_qdq, representable
from repvgg_deploy.runners.onnx_session import OrtSession
from repvgg_deploy.sidecar import store
from repvgg_deploy.steps.weights import read_weights
from repvgg_deploy.workspace import ModelFolder


def quantized_layers(
    model: ModelProto, layers: Sequence[Layer], float_type: str = "fp32", input_scale: float = 0.05
) -> list[QuantizedLayer]:
    """Weights by the largest of each output channel, activations by ``input_scale``."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (scale,) = representable(np.array([input_scale]), float_type)
    quantized = []
    for layer in layers:
        weight = arrays[layer.weight]
        weight = weight.T if layer.transposed else weight
        scales = representable(np.abs(weight).reshape(len(weight), -1).max(1) / 127, float_type)
        steps = weight / scales.reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.clip(np.rint(steps), -128, 127).astype(np.int8)
        bias = arrays[layer.bias].reshape(-1) if layer.bias else None
        quantized.append(QuantizedLayer(layer.name, float(scale), integers, scales, bias))
    return quantized


def write_int8(folder: ModelFolder, float_type: str = "fp32", size: int = 32) -> Path:
    """int8.onnx of a folder with fused weights, its companion and sidecar, as quantize has them;
    activations by their largest value on noise."""
    network = read_weights(folder.fused).network
    return write_graph(to_onnx(network.build(), (size, size)), folder.fused, folder, float_type)


def write_graph(
    model: ModelProto, source: Path, folder: ModelFolder, float_type: str = "fp32"
) -> Path:
    """The same of any model, which lies at ``source``."""
    ready = prepare(model)
    (image,), (output,) = ready.graph.input, ready.graph.output
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    layers = find_layers(ready, linear=True)
    samples = probe_inputs(*shape[1:], count=shape[0] or 8)
    scales = _input_scales(ready, layers, samples)
    quantized = [
        made
        for layer in layers
        for made in quantized_layers(ready, [layer], float_type, scales[layer.name])
    ]
    quantized_model = insert_qdq(ready, quantized, float_type)
    content = to_bytes(int8_tensors(ready, quantized))
    path, weights = folder.onnx("int8"), folder.int8_weights
    entries = [
        {"name": q.name, "quantized": True, "input_scale": q.input_scale, "reason": ""}
        for q in quantized
    ]
    store(
        path,
        lambda temporary: onnx.save(quantized_model, temporary),
        lambda digest: QuantizedArtifact(
            file=path.name,
            sha256=digest,
            source=Source(source.name, sha256_file(source)),
            precision="int8",
            float_type=float_type,
            opset=19,
            input_name=image.name,
            output_name=output.name,
            input_shape=shape,
            operators=dict(Counter(node.op_type for node in quantized_model.graph.node)),
            method={"effort": "fast", "seed": 0},
            calibration={"path": "x", "sha256": "0" * 64, "samples": 8, "preprocessing": {}},
            layers=entries,
            data={weights.name: hashlib.sha256(content).hexdigest()},
            proof=PROOF,
        ),
        {weights: lambda temporary: temporary.write_bytes(content)},
    )
    return path


PROOF = {
    "passed": True, "samples": 8, "sqnr_db": 30.5, "min_sqnr_db": 20.0, "agreement": 1.0,
    "min_agreement": 0.99, "top1_drop": None, "max_drop": None,
    "integers": {"values": 100, "differing": 1, "largest": 1},
}  # fmt: skip


def _input_scales(
    model: ModelProto, layers: Sequence[Layer], samples: NDArray[np.float32]
) -> dict[str, float]:
    exposed = ModelProto()
    exposed.CopyFrom(model)
    for name in {layer.input for layer in layers} - {value.name for value in model.graph.input}:
        exposed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    (image,) = (value.name for value in model.graph.input)
    values = {
        image: samples,
        **OrtSession(Path(), exposed.SerializeToString()).run({image: samples}),
    }
    return {layer.name: float(np.abs(values[layer.input]).max() / 127) for layer in layers}
