"""The float64 truth of a graph, against hand-worked values and the evaluator of ONNX itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from repvgg_deploy.errors import UserError
from repvgg_deploy.runners.onnx_reference import OnnxFloat64

from .graphs import HEAD, graph


def test_float64_reaches_casts_subgraphs_and_constants() -> None:
    """1 + 1e-9 - 1 is 0 in float32 wherever a step of it is made in float32."""
    model = parser.parse_model(
        f"""{HEAD} g (float[1] x) => (float[1] y) {{
          c = Constant<value_float: float = 1.0>()  s = Add(x, c)  d = Cast<to=1>(s)
          b = Cast<to=9>(d)
          y = If(b) <
            then_branch = a () => (float[1] p) {{
              one = Constant<value = float[1] {{1}}>()  p = Sub(d, one) }},
            else_branch = e () => (float[1] q) {{ q = Neg(d) }}> }}"""
    )
    assert OnnxFloat64(model).run({"x": np.array([1e-9])})["y"] == pytest.approx([1e-9])


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 1)])
def test_float64_convolution_pads_as_onnx_says(auto_pad: str, stride: int, dilation: int) -> None:
    """Against ONNX's own evaluator, which is slow and needs no torch."""
    node = helper.make_node(
        "Conv", ["x", "k"], ["y"],
        auto_pad=auto_pad, strides=[stride] * 2, dilations=[dilation] * 2,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((3, 2, 3, 2))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, None, None, None])
        for name in "xy"
    ]
    weights = [numpy_helper.from_array(kernel, "k")]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights))
    x = generator.standard_normal((1, 2, 8, 7))
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(OnnxFloat64(model).run({"x": x})["y"], expected, atol=1e-12)


def test_models_that_float64_cannot_run() -> None:
    with pytest.raises(UserError, match="cannot be evaluated in float64"):
        OnnxFloat64(graph("y = unknown.Neg(x)"))
    with pytest.raises(UserError, match="cannot be run in float64"):
        OnnxFloat64(graph("y = Add(x, three)")).run({"x": np.ones((1, 2, 5, 5))})
