"""ONNX models in text, and what they compute in float64."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

from repvgg_deploy.reparam.graph import GraphFusion, fuse_graph
from repvgg_deploy.runners.onnx_reference import OnnxFloat64

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
#: Two channels: a 1x1 kernel that swaps them, and constants used all over.
CONSTANTS = """
  float[2,2,1,1] swap = {0, 1, 1, 0},
  float[2,2,3,3] three = {
    1, 2, 3, 4, 5, 6, 7, 8, 9,  0, 0, 0, 0, 1, 0, 0, 0, 0,
    0, 0, 0, 0, 2, 0, 0, 0, 0,  9, 8, 7, 6, 5, 4, 3, 2, 1},
  float[2,1,3,3] deep = {1, 2, 3, 4, 5, 6, 7, 8, 9,  9, 8, 7, 6, 5, 4, 3, 2, 1},
  float[2] b = {10, 20}, float[2] gamma = {1, 2}, float[2] beta = {3, 4}, float[2] mean = {5, 6},
  float[2] var = {3, 8}, float half = {0.5}, float zero = {0}, float[2,1,1] two_three = {2, 3},
  float[1,2,1,1] four_five = {4, 5}, float[2] pair = {2, 3},
  int64[8] around = {0, 0, 1, 1, 0, 0, 1, 1}
"""


def graph(body: str, head: str = HEAD, output: str = "y", more: str = "") -> ModelProto:
    """x [n, 2, h, w] to y, over the CONSTANTS; ``more`` declares further constants."""
    ends = f"(float[n,2,h,w] x) => (float[n,c,k,l] {output})"
    return parser.parse_model(f"{head} g {ends}\n<{CONSTANTS}{more}> {{ {body} }}")


def fuse(body: str, *, allow_costlier: bool = False, **options: str) -> GraphFusion:
    """Fuse a body, and see that it still computes the same."""
    model = graph(body, **options)
    before = model.SerializeToString()
    result = fuse_graph(model, allow_costlier=allow_costlier)
    assert model.SerializeToString() == before
    assert_same(model, result.model)
    return result


def evaluate(model: ModelProto, side: int = 6) -> list[NDArray[np.float64]]:
    """All outputs on noise of [2, C, side, side + 1] (C as declared), in float64."""
    generator = np.random.default_rng(0)
    feed = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            channels = value.type.tensor_type.shape.dim[1].dim_value
            feed[value.name] = generator.standard_normal((2, channels, side, side + 1))
    copy = ModelProto()
    copy.CopyFrom(model)  # the evaluator raises the constants in place
    return list(OnnxFloat64(copy).run(feed).values())


def assert_same(first: ModelProto, second: ModelProto, limit: float = 1e-5) -> None:
    """Equal outputs up to the rounding of stored weights."""
    for one, two in zip(evaluate(first), evaluate(second), strict=True):
        assert one.shape == two.shape
        assert np.abs(one - two).max() <= limit * max(1, np.abs(one).max())


def operators(model: ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node))


def weights(model: ModelProto) -> dict[str, NDArray[np.float64]]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def many() -> ModelProto:
    """Two inputs, one with a fixed size; a float, a bool, an integer and a scalar output."""
    return parser.parse_model(
        f"""{HEAD} g (float[n,2,h,w] x, float[3] s) =>
        (float[n,2,h,w] y, bool[n,2,h,w] p, int64[n,1,h,w] a, float q)
        <float[2,2,1,1] k = {{0, 1, 1, 0}}, float c = {{3}}, float z = {{0}}> {{
          t = Conv(x, k)  y = Mul(t, c)  p = Greater(y, z)  a = ArgMax<axis=1>(y)
          q = ReduceSum<keepdims=0>(s) }}"""
    )
