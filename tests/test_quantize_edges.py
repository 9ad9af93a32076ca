"""Networks and images at the edges of what quantization meets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.quality import likeness
from repvgg_deploy.quantize.quantizer import RECIPES, quantize
from repvgg_deploy.runners.onnx_session import OrtSession
from repvgg_deploy.sqnr import LOWEST
from repvgg_deploy.steps.quantize_proof import prove_equalization

from .graphs import HEAD

SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (5, 8, 3, 3)}
IMAGES = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)


def network(batch: str = "n", pads: str = "<pads=[1,1,1,1]>") -> ModelProto:
    """x [batch, 3, h, w] through three convolutions with random weights."""
    declared = ", ".join(f"float{list(shape)} {name}" for name, shape in SHAPES.items())
    model = parser.parse_model(
        f"{HEAD} g (float[{batch},3,8,8] x, {declared}) => (float[{batch},5] y) {{"
        f"a = Conv{pads}(x, w1, b1)  b = Relu(a)  c = Conv{pads}(b, w2)  d = Relu(c)"
        f"e = Conv{pads}(d, w3)  f = GlobalAveragePool(e)  y = Flatten(f) }}"
    )
    del model.graph.input[1:]
    generator = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        values = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def sqnr_db(model: ModelProto, images: NDArray[np.float32], float_type: str) -> float:
    """Of the thorough int8 model, on the images that it was calibrated with."""
    found = quantize(model, lambda: iter([images]), RECIPES["thorough"], float_type=float_type)
    quantized = insert_qdq(found.model, found.layers, float_type)
    truth, integers = (
        OrtSession(Path("m"), m.SerializeToString()).run({"x": images})["y"]
        for m in (model, quantized)
    )
    return likeness(integers, truth).sqnr_db


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-30])
def test_the_bias_of_a_channel_that_never_fires_goes_into_fp16(size: float) -> None:
    model = network()
    weight, bias = (numpy_helper.to_array(t).copy() for t in model.graph.initializer[:2])
    weight[0] *= size
    bias[0] = -0.5
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b1"))
    assert sqnr_db(model, IMAGES, "fp16") > 25


@pytest.mark.parametrize("mean", [10, 1000])
def test_images_that_hardly_differ_have_statistics_too(mean: float) -> None:
    assert sqnr_db(network(pads=""), np.float32(mean) + IMAGES / 1000, "fp32") > 25


@pytest.mark.parametrize("batch", [1, 5])
def test_equalization_is_proved_in_batches_of_the_models_own_size(batch: int) -> None:
    model = network(batch=str(batch))
    onnx.checker.check_model(model)
    found = quantize(model, lambda: iter([IMAGES]), RECIPES["equalize"])
    proved = prove_equalization(Path("m.onnx"), model, found, IMAGES[:8])
    assert proved is not None and proved.passed


def test_logits_that_overflow_have_an_sqnr_too() -> None:
    """Without a warning of NumPy's beside the sentence that refuses the model."""
    assert likeness(np.array([[np.inf, 2.0]]), np.array([[1.0, 2.0]])).sqnr_db == LOWEST
