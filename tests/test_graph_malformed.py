"""Nodes that no runtime would take, and graphs that only some do: left alone, no exception."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper, parser

from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.graph import fuse_graph

from .graphs import HEAD, assert_same, fuse, graph, operators, weights

CHAIN = "t = Conv(x, swap, b)  u = Neg(t)  y = Relu(u)"


def replaced(number: int, node: NodeProto) -> ModelProto:
    model = graph(CHAIN)
    model.graph.node[number].CopyFrom(node)
    return model


def conv(*inputs: str, **attributes: object) -> NodeProto:
    return helper.make_node("Conv", inputs or ("x", "swap", "b"), ["t"], **attributes)


NODES = {
    "conv with one input": conv("x"),
    "conv without output": helper.make_node("Conv", ["x", "swap"], []),
    "conv with an unnamed output": helper.make_node("Conv", ["x", "swap"], [""]),
    "conv with an unnamed kernel": conv("x", "", "b"),
    "group 0": conv(group=0),
    "negative group": conv(group=-2),
    "one stride": conv(strides=[1]),
    "stride 0": conv(strides=[0, 1]),
    "three pads": conv(pads=[1, 1, 1]),
    "three dilations": conv(dilations=[1, 1, 1]),
    "strides that are no list": conv(strides=2),
    "unknown attribute": conv(colour=1),
    "kernel_shape of another kernel": conv(kernel_shape=[3, 3]),
    "bias too short": conv("x", "swap", "half"),
    "bias of another rank": conv("x", "swap", "two_three"),
}
SECOND = {
    "neg without input": helper.make_node("Neg", [], ["u"]),
    "neg of nothing": helper.make_node("Neg", [""], ["u"]),
    "neg without output": helper.make_node("Neg", ["t"], []),
    "batch norm with 3 inputs": helper.make_node(
        "BatchNormalization", ["t", "gamma", "beta"], ["u"]
    ),
    "pool without kernel_shape": helper.make_node("AveragePool", ["t"], ["u"]),
    "pool with one pad": helper.make_node(
        "AveragePool", ["t"], ["u"], kernel_shape=[2, 2], pads=[1]
    ),
    "pool of size 0": helper.make_node("AveragePool", ["t"], ["u"], kernel_shape=[0, 2]),
    "pad with 3 sizes": helper.make_node("Pad", ["t", "pair"], ["u"]),
    "mul by nothing": helper.make_node("Mul", ["t", ""], ["u"]),
    "empty sum": helper.make_node("Sum", [], ["u"]),
}


@pytest.mark.parametrize("name", [*NODES, *SECOND])
def test_a_malformed_node_stays(name: str) -> None:
    number, node = (0, NODES[name]) if name in NODES else (1, SECOND[name])
    model = replaced(number, node)
    result = fuse_graph(model)
    assert result.fused == ()
    assert result.model is model


def test_constants_that_hold_no_numbers() -> None:
    model = graph("t = Conv(x, swap, b)  k = Constant<value_float: float = 2.0>()  y = Mul(t, k)")
    model.graph.node[1].attribute.append(helper.make_attribute("value_int", 3))
    assert fuse_graph(model).fused == ()
    model = graph("t = Conv(x, swap, b)  y = Mul(t, half)")
    for tensor in model.graph.initializer:
        if tensor.name == "half":
            tensor.CopyFrom(helper.make_tensor("half", onnx.TensorProto.STRING, [1], [b"a"]))
    assert "cannot be read as numbers" in fuse_graph(model).left[0].reason
    model = graph("t = Conv(x, swap, b)  y = Mul(t, half)")
    for tensor in model.graph.initializer:
        if tensor.name == "swap":
            tensor.CopyFrom(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "swap"))
            tensor.raw_data = tensor.raw_data[:5]
    assert "cannot be read as numbers" in fuse_graph(model).left[0].reason


def test_constants_that_name_each_other() -> None:
    """A tensor made twice: no runtime takes it, and it must not be followed for ever."""
    model = graph("a = Identity(swap)  t = Conv(x, a)  y = Neg(t)")
    model.graph.node.insert(1, helper.make_node("Identity", ["a"], ["a"]))
    with pytest.raises(UserError, match="form a circle"):
        fuse_graph(model)


@pytest.mark.parametrize("body", [
    "t = Conv(image, swap)  y = Add(t, x)",
    "i = Identity(image)  t = Conv(i, swap)  u = Neg(t)  y = Add(u, x)",
    "i = Identity(image)  t = Neg(i)  u = Conv(t, swap)  y = Add(u, x)",
])  # fmt: skip
def test_a_convolution_of_a_constant_keeps_it(body: str) -> None:
    result = fuse(body, more=", float[1,2,1,1] image = {1, 2}")
    assert result.fused == ()
    assert "image" in weights(result.model)


def test_a_long_chain_of_constants() -> None:
    names = ["swap", *(f"k{number}" for number in range(1500))]
    model = graph(f"t = Conv(x, {names[-1]})  y = Neg(t)")
    chain = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(names)]
    nodes = [*chain, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert operators(fuse_graph(model).model) == {"Conv": 1}


def test_nodes_in_any_order() -> None:
    """ONNX Runtime sorts them, and so do we; a region may span them."""
    model = graph("r = Relu(x)  t = Conv(r, swap)  u = Neg(t)  y = Relu(u)")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    result = fuse_graph(model)
    assert len(result.fused) == 1
    assert_same(model, result.model)
    model.graph.node[0].input[0] = "y"
    with pytest.raises(UserError, match="form a circle"):
        fuse_graph(model)


def wide(count: int, before: str) -> ModelProto:
    """A sum of many convolutions, of one tensor or of one each."""
    model = graph("y = Neg(x)")
    del model.graph.node[:]
    names = [f"c{number}" for number in range(count)]
    for name in names:
        source = "x"
        if before:
            source = f"q{name}"
            model.graph.node.append(helper.make_node(before, ["x"], [source]))
        model.graph.node.append(helper.make_node("Conv", [source, "swap"], [name]))
    model.graph.node.append(helper.make_node("Sum", names, ["y"]))
    return model


@pytest.mark.parametrize("before", ["", "Relu"])
def test_time_grows_with_the_branches_of_one_sum(before: str) -> None:
    """Linear is a factor of 4, quadratic 16."""
    assert lines_run(wide(400, before)) < 6 * lines_run(wide(100, before))


def lines_run(model: ModelProto) -> int:
    """Lines of Python that fusing takes, those of every turn of a loop: time, but for its noise."""
    count = 0

    def tell(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return tell

    before = sys.gettrace()
    sys.settrace(tell)
    try:
        fuse_graph(model)
    finally:
        sys.settrace(before)
    return count


def test_external_data_needs_its_folder() -> None:
    model = graph("t = Conv(x, swap)  y = Neg(t)")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(UserError, match="lie in files; say with folder= where"):
        fuse_graph(model)


def test_sparse_names_are_taken() -> None:
    model = graph("t = Conv(x, swap)  y = Neg(t)")
    values = helper.make_tensor("y.weight", 1, [1], [1.0])
    places = helper.make_tensor("places", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2]))
    assert "y.weight_1" in weights(fuse_graph(model).model)


def test_constants_of_quantization_annotations_stay() -> None:
    model = graph("t = Conv(x, swap)  y = Mul(t, half)")
    annotation = model.graph.quantization_annotation.add()
    annotation.tensor_name = "y"
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="half")
    result = fuse_graph(model)
    assert len(result.fused) == 1
    assert "half" in weights(result.model)


def test_functions_of_either_name_of_the_standard_domain() -> None:
    text = '<domain: "", opset_import: ["" : 17]> Neg (p) => (q) { q = Relu(p) }'
    model = parser.parse_model(
        f"{HEAD} g (float[n,1,h,w] x) => (float[n,1,h,w] y) <float[1,1,1,1] k = {{2}}>"
        f"{{ t = Conv(x, k)  y = ai.onnx.Neg(t) }} {text}"
    )
    assert fuse_graph(model).fused == ()


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_a_pointwise_kernel_needs_no_padding_at_any_stride(auto_pad: str) -> None:
    result = fuse(f't = Conv<auto_pad="{auto_pad}", strides=[2,3]>(x, swap)  y = Neg(t)')
    assert len(result.fused) == 1


def test_statistics_that_are_not_numbers() -> None:
    model = graph("t = Conv(x, swap)  y = BatchNormalization(t, gamma, beta, mean, var)")
    for tensor in model.graph.initializer:
        if tensor.name == "var":
            tensor.CopyFrom(numpy_helper.from_array(np.full(2, np.nan, np.float32), "var"))
    assert "variance that is not a number" in fuse_graph(model).left[0].reason
