"""What fusing must not touch: names, shapes, subgraphs, functions, other readers, metadata."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from repvgg_deploy.reparam.graph import fuse_graph

from .graphs import CONSTANTS, HEAD, assert_same, fuse, graph, operators, weights

CHAIN = "t = Conv(x, swap, b)  u = Mul(t, half)  y = Relu(u)"


def model_of(text: str, head: str = HEAD) -> ModelProto:
    return parser.parse_model(f"{head} {text}")


def test_everything_else_is_untouched() -> None:
    model = graph(f"{CHAIN}  e = Exp(y)  z = Log(e)", output="z")
    model.producer_name, model.doc_string, model.model_version = "me", "a model", 7
    helper.set_model_props(model, {"license": "MIT"})
    model.graph.doc_string = "a graph"
    model.graph.node[2].doc_string = "a node"
    for name in ("t", "u", "y"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, ["n", 2, "h", "w"]))
    result = fuse_graph(model).model
    onnx.checker.check_model(result, full_check=True)
    for field in ("ir_version", "opset_import", "producer_name", "doc_string", "model_version"):
        assert getattr(result, field) == getattr(model, field)
    assert result.metadata_props == model.metadata_props
    assert (result.graph.name, result.graph.doc_string) == ("g", "a graph")
    assert result.graph.input == model.graph.input
    assert result.graph.output == model.graph.output
    assert list(result.graph.node)[1:] == list(model.graph.node)[2:]
    assert [value.name for value in result.graph.value_info] == ["u", "y"]
    before = {t.name: t for t in model.graph.initializer}
    after = {t.name: t for t in result.graph.initializer}
    assert set(before) - set(after) == {"swap", "b", "half"}
    assert set(after) - set(before) == {"u.weight", "u.bias"}
    assert all(after[name] == before[name] for name in before.keys() & after)


def test_new_names_avoid_old_ones() -> None:
    model = graph("t = Conv(x, swap)  y = Mul(t, half)", more=", float[1] taken = {1}")
    next(t for t in model.graph.initializer if t.name == "taken").name = "y.weight"
    result = fuse_graph(model)
    assert "y.weight_1" in weights(result.model)
    assert weights(result.model)["y.weight"].tolist() == [1]


def test_an_output_inside_a_region_stays() -> None:
    model = graph("t = Conv(x, swap)  y = Mul(t, half)")
    model.graph.output.append(helper.make_tensor_value_info("t", 1, ["n", 2, "h", "w"]))
    result = fuse_graph(model)
    assert result.model is model
    assert result.left[0].reason == "tensor 't' is an output of the model"


def test_a_subgraph_is_a_reader() -> None:
    """Bodies of If, two levels deep, read an inner tensor and a weight of a region."""
    model = graph(
        """s = ReduceSum<keepdims=0>(x)  c = Cast<to=9>(s)  t = Conv(x, swap)  u = Neg(t)
        z = If(c) <
          then_branch = a () => (float[n,2,h,w] p) {
            p = If(c) <
              then_branch = d () => (float[n,2,h,w] q) { q = Conv(t, swap) },
              else_branch = e () => (float[n,2,h,w] r) { r = Identity(t) }> },
          else_branch = f () => (float[n,2,h,w] o) { o = Neg(t) }>
        v = Conv(z, swap)  y = Neg(v)"""
    )
    result = fuse_graph(model)
    assert operators(result.model)["Conv"] == 2
    assert [region.end for region in result.fused] == ["y"]
    assert result.left[0].reason.startswith("tensor 't' is read inside If")
    assert "swap" in weights(result.model)
    onnx.checker.check_model(result.model)
    assert_same(model, result.model)


def test_weights_that_others_read_stay() -> None:
    result = fuse("t = Conv(x, swap)  u = Neg(t)  r = Relu(u)  y = Conv(r, swap)")
    assert operators(result.model) == {"Conv": 2, "Relu": 1}
    assert "swap" in weights(result.model)


def test_one_weight_in_two_regions() -> None:
    body = "t = Conv(x, swap)  u = Neg(t)  r = Relu(u)  v = Conv(r, swap)  y = Neg(v)"
    result = fuse(body)
    assert len(result.fused) == 2
    assert "swap" not in weights(result.model)


def test_an_overridable_initializer_is_not_constant() -> None:
    model = graph("t = Conv(x, swap)  y = Neg(t)")
    model.graph.input.append(helper.make_tensor_value_info("swap", 1, [2, 2, 1, 1]))
    result = fuse_graph(model)
    assert result.model is model
    assert "'swap' are an input of the model too" in result.left[0].reason


def test_before_ir_version_4_every_initializer_is_an_input() -> None:
    model = graph("t = Conv(x, swap)  y = Neg(t)", head='<ir_version: 3, opset_import: ["" : 8]>')
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    result = fuse_graph(model)
    onnx.checker.check_model(result.model)
    names = [value.name for value in result.model.graph.input]
    assert "swap" not in names
    assert "y.weight" in names
    assert_same(model, result.model)


FUNCTION = """
<domain: "local", opset_import: ["" : 17]> twice (p) => (q) { q = Add(p, p) }
"""


def test_functions_and_foreign_domains_are_opaque() -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
    body = "t = Conv(x, swap)  u = local.twice(t)  v = Conv(u, swap)  y = Neg(v)"
    ends = "(float[n,2,h,w] x) => (float[n,c,k,l] y)"
    model = parser.parse_model(f"{head} g {ends} <{CONSTANTS}> {{ {body} }} {FUNCTION}")
    result = fuse_graph(model)
    assert [region.end for region in result.fused] == ["y"]
    assert result.model.functions == model.functions
    assert_same(model, result.model)


def test_a_standard_name_in_a_foreign_domain() -> None:
    model = graph("t = Conv(x, swap)  y = other.Neg(t)")
    assert fuse_graph(model).model is model


def test_ai_onnx_is_the_standard_domain() -> None:
    model = graph("t = Conv(x, swap)  y = Neg(t)")
    for node in model.graph.node:
        node.domain = "ai.onnx"
    assert len(fuse_graph(model).fused) == 1


def in_half(model: ModelProto) -> ModelProto:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_half_precision_stays_half() -> None:
    model = in_half(graph(CHAIN))
    result = fuse_graph(model)
    onnx.checker.check_model(result.model, full_check=True)
    new = [t for t in result.model.graph.initializer if t.name in ("u.weight", "u.bias")]
    assert [t.data_type for t in new] == [TensorProto.FLOAT16] * 2
    assert_same(model, result.model)


def test_weights_too_large_for_half_precision_stay_apart() -> None:
    model = in_half(graph("t = Conv(x, k)  y = Mul(t, k)", more=", float[1,1,1,1] k = {300}"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    result = fuse_graph(model)
    assert result.fused == ()
    assert result.model is model
    assert result.left[0].reason == "the folded weights are too large for float16"


@pytest.mark.parametrize("kind", ["Identity", "Neg"])
def test_dynamic_dimensions_stay_dynamic(kind: str) -> None:
    result = fuse(f"t = Conv(x, swap)  y = {kind}(t)")
    dims = result.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["n", 2, "h", "w"]


def test_weights_too_small_for_half_precision_stay_apart() -> None:
    """1e-6 is a subnormal float16, with one or two digits."""
    body = "t = Conv(x, k)  y = Mul(t, g)"
    more = ", float[2,2,1,1] k = {0.1, 0.2, 0.3, 0.4}, float[2,1,1] g = {0.00001, 1}"
    model = in_half(graph(body, more=more))
    result = fuse_graph(model)
    assert result.model is model
    assert result.left[0].reason == "the folded weights are too small for float16"
    assert len(fuse_graph(graph(body, more=more)).fused) == 1


def test_weights_too_small_for_single_precision_stay_apart() -> None:
    more = ", float[2,2,1,1] k = {1e-20, 2e-20, 3e-20, 4e-20}, float[2,1,1] g = {1e-22, 3e-22}"
    result = fuse_graph(graph("t = Conv(x, k)  y = Mul(t, g)", more=more))
    assert [left.reason for left in result.left] == ["the folded weights are too small for float32"]


def test_a_dead_channel_keeps_nothing_apart() -> None:
    """Weight decay drives channels that nothing uses to the smallest numbers there are."""
    more = ", float[2,2,1,1] k = {1e-20, 2e-20, 3, 4}, float[2,1,1] g = {1e-22, 1}"
    assert len(fuse("t = Conv(x, k)  y = Mul(t, g)", more=more).fused) == 1


def test_weights_that_are_no_numbers() -> None:
    model = graph("t = Conv(x, k)  y = Mul(t, half)", more=", float[1,2,1,1] k = {1, 1}")
    for tensor in model.graph.initializer:
        if tensor.name == "k":
            values = np.full((1, 2, 1, 1), np.nan, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, "k"))
    assert fuse_graph(model).left[0].reason == "the folded weights hold NaN or infinity"
