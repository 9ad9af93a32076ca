"""Channels are scaled only where the network stays the same function."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.quantize.layers import find_layers
from repvgg_deploy.quantize.prepare import prepare
from repvgg_deploy.quantize.scaling import find_scalable, rescale
from repvgg_deploy.reparam.graph import fuse_graph
from repvgg_deploy.runners.onnx_reference import OnnxFloat64

from .graphs import evaluate, graph
from .helpers import GOLDEN, randomized, tiny_spec


def rescaled(model: ModelProto, seed: int = 0) -> tuple[ModelProto, ModelProto]:
    """A prepared model, and the same with all that can be scaled times exp(N(0, 2))."""
    ready = prepare(model)
    before = ready.SerializeToString()
    generator = np.random.default_rng(seed)
    weights = {t.name: t.dims for t in ready.graph.initializer}
    found = find_scalable(ready)
    factors = [
        np.exp(generator.normal(0, 2, weights[scalable.producer.weight][0])) for scalable in found
    ]
    twin = rescale(ready, found, factors)
    assert ready.SerializeToString() == before
    return ready, twin


def assert_same_function(model: ModelProto, seed: int = 0) -> None:
    ready, twin = rescaled(model, seed)
    assert_equal(evaluate(ready), evaluate(twin))


def assert_equal(first: list[NDArray[Any]], second: list[NDArray[Any]]) -> None:
    for one, other in zip(first, second, strict=True):
        assert np.isfinite(one).all() and np.abs(one).max() > 0
        # float32 through a chain of layers; a factor in the wrong place shows in the first digit
        assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()


def scaled_layers(model: ModelProto) -> list[str]:
    return [scalable.producer.name for scalable in find_scalable(prepare(model))]


class Net:
    """A chain of nodes on x [2, 4, h, w] with random weights."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.channels, self.tensor = 4, "x"

    def constant(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = self._generator.standard_normal(shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, *others: str, **attributes: Any) -> None:
        self.tensor = self.node(kind, self.tensor, *others, **attributes)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def conv(self, channels: int, size: int = 3, groups: int = 1, bias: bool = True) -> None:
        weight = self.constant(channels, self.channels // groups, size, size)
        others = [weight, *[self.constant(channels)] * bias]
        self.add("Conv", *others, group=groups, pads=[size // 2] * 4)
        self.channels = channels

    def gate(self) -> None:
        """Squeeze-excitation."""
        down, up = self.constant(2, self.channels, 1, 1), self.constant(self.channels, 2, 1, 1)
        small = self.node("Conv", self.node("GlobalAveragePool", self.tensor), down)
        large = self.node("Conv", self.node("Relu", small), up)
        self.add("Mul", self.node("Sigmoid", large))

    def head(self, transposed: bool) -> None:
        self.add("GlobalAveragePool")
        self.add("Flatten", axis=1)
        shape = (3, self.channels) if transposed else (self.channels, 3)
        self.add("Gemm", self.constant(*shape), self.constant(3), transB=int(transposed))

    def model(self) -> ModelProto:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "h", "w"])
        output = helper.make_tensor_value_info(self.tensor, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [value], [output], self.weights)
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8)


PARTS = {
    "Conv": lambda net: net.conv(8),
    "Conv 1x1": lambda net: net.conv(4, size=1),
    "Conv without bias": lambda net: net.conv(8, bias=False),
    "grouped": lambda net: net.conv(8, groups=4),
    "two groups": lambda net: net.conv(4, groups=2),
    "depthwise": lambda net: net.conv(net.channels, groups=net.channels),
    "Relu": lambda net: net.add("Relu"),
    "LeakyRelu": lambda net: net.add("LeakyRelu", alpha=0.2),
    "MaxPool": lambda net: net.add("MaxPool", kernel_shape=[3, 3], pads=[1] * 4),
    "AveragePool": lambda net: net.add("AveragePool", kernel_shape=[3, 3], pads=[1] * 4),
    "Identity": lambda net: net.add("Identity"),
    "SE": lambda net: net.gate(),
    "Sigmoid": lambda net: net.add("Sigmoid"),
    "SiLU": lambda net: net.add("Mul", net.node("Sigmoid", net.tensor)),
    "residual": lambda net: net.add("Add", net.node("Relu", net.tensor)),
    "square": lambda net: net.add("Mul", net.tensor),
    "per channel": lambda net: net.add("Mul", net.constant(net.channels, 1, 1)),
    "Concat": lambda net: (
        net.add("Concat", net.tensor, axis=1),
        setattr(net, "channels", 2 * net.channels),
    ),
    "Clip": lambda net: net.add("Clip", net.constant(), ""),
}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=8),
    st.sampled_from([None, True, False]),
    st.integers(0, 1000),
)
def test_any_chain_stays_the_same_function(parts: list[str], head: bool | None, seed: int) -> None:
    net = Net(seed)
    net.conv(8)
    for part in parts:
        if net.channels <= 16 or part != "Concat":
            PARTS[part](net)
    if head is None:
        net.conv(4)
    else:
        net.head(transposed=head)
    net.add("Add", net.constant(1))  # so that a chain of zeros has an output too
    assert_same_function(net.model(), seed)


NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "g4": {"groups": 4},
    "se": {"se_ratio": 4},
    "se after relu": {"se_ratio": 4, "family": "repvggplus"},
    "g4 se": {"groups": 4, "se_ratio": 4},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_of_a_repvgg(name: str) -> None:
    torch.manual_seed(0)
    network = randomized(RepVGG(tiny_spec(**NETWORKS[name]), "deploy"))
    model = to_onnx(network, (32, 32))
    blocks = [layer for layer in scaled_layers(model) if "rbr_reparam" in layer]
    assert len(blocks) == 6
    assert_same_function(model)


#: peer -> how many convolutions outside squeeze-excitation can be scaled
PEERS = {
    "apple_mobileone": 13,
    "mmpretrain_repvgg": 9,
    "official_deployed": 9,
    "official_plain": 9,
    "official_se": 9,
    "repvggplus_pse": 13,
    "timm_mobileone": 13,
    "timm_repvgg": 8,
    "yolov6_blocks": 4,
    "yolov6_qarepvgg": 4,
    "yolov7_repconv": 0,
}


@pytest.mark.parametrize("name", PEERS)
def test_peers(name: str) -> None:
    model = fuse_graph(onnx.load(GOLDEN / f"{name}.onnx")).model
    ready, twin = rescaled(model)
    feed = {model.graph.input[0].name: np.load(GOLDEN / f"{name}.npz")["x"]}
    assert_equal(*[list(OnnxFloat64(one).run(feed).values()) for one in (ready, twin)])
    blocks = {layer.name for layer in find_layers(prepare(model))}
    assert len(blocks.intersection(scaled_layers(model))) == PEERS[name]


#: What lies between a convolution and the next, and which tensor is the output.
NOT_SCALED = {
    "SiLU": "s = Sigmoid(a) b = Mul(a, s)",
    "its square": "b = Mul(a, a)",
    "residual": "b = Add(a, x)",
    "concatenated": "k = Concat<axis=1>(a, x) b = Slice(k, zeros, twos, ones)",
    "PRelu": "b = PRelu(a, slope)",
    "Clip": "b = Clip(a, zero)",
    "HardSwish": "b = HardSwish(a)",
    "transposed": "b = Transpose<perm=[0,1,3,2]>(a)",
    "max with indices": "b, i = MaxPool<kernel_shape=[1,1]>(a)",
    "gate of one channel": "n = ReduceMean<axes=[1]>(a) b = Mul(a, n)",
}
MORE = """, float[2,1,1] slope = {0.25, 0.5}, int64[1] zeros = {0}, int64[1] twos = {2},
  int64[1] ones = {1}"""


@pytest.mark.parametrize("name", NOT_SCALED)
def test_not_homogeneous(name: str) -> None:
    body = f"a = Conv<pads=[1,1,1,1]>(x, three, b0) {NOT_SCALED[name]} y = Conv(b, swap)"
    model = graph(body, more=f"{MORE}, float[2] b0 = {{1, 2}}")
    assert scaled_layers(model) == []


def test_an_output_of_the_model_is_not_scaled() -> None:
    model = graph("a = Conv(x, swap) r = Relu(a) y = Conv(r, three)")
    assert len(scaled_layers(model)) == 1
    for name in ("a", "r"):
        told = ModelProto()
        told.CopyFrom(model)
        told.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        assert scaled_layers(told) == []


def test_a_tensor_that_a_branch_reads_is_not_scaled() -> None:
    """A subgraph reads tensors from outside without naming them as inputs of its node."""
    model = graph("a = Conv(x, swap) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, three) y = Add(c, h)")
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(kind, ["r"], ["o"])], kind, [], [value])
        for kind in ("Abs", "Neg")
    ]
    choice = helper.make_node(
        "If", ["yes"], ["h"], then_branch=branches[0], else_branch=branches[1]
    )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:3], choice, nodes[3]])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    assert scaled_layers(model) == []
    assert_same_function(model)


HEADS = {
    "Flatten": ("g = GlobalAveragePool(r) f = Flatten(g)", 1),
    "Reshape": ("g = GlobalMaxPool(r) f = Reshape(g, flat)", 1),
    "Squeeze": ("g = ReduceMean<axes=[2,3]>(r) f = Squeeze(g, sides)", 1),
    "Dropout and more": ("g = GlobalAveragePool(r) f0 = Flatten(g) f = Identity(f0)", 1),
    "not pooled": ("f0 = Flatten(r) f = Slice(f0, zeros, twos, ones)", 0),
    "over channels": (
        "g = ReduceMean<axes=[1,2]>(r) h = Flatten(g) f = Slice(h, zeros, twos, ones, ones)",
        0,
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_flattened_only_behind_a_pooled_map(name: str) -> None:
    body, expected = HEADS[name]
    model = graph(
        f"a = Conv(x, swap) r = Relu(a) {body} y = Gemm(f, square)",
        more=f"""{MORE}, float[2,2] square = {{1, 2, 3, 4}}, int64[2] flat = {{-1, 2}},
        int64[2] sides = {{2, 3}}""",
    )
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    assert len(scaled_layers(model)) == expected
    assert_same_function(model)


def test_one_channel_that_weighs_all_others() -> None:
    """Broadcast: what one factor scales are then all channels, and readers have more of them."""
    model = graph(
        "a = Conv(x, sum) r = Relu(a) m = Mul(x, r) y = Conv(m, swap)",
        more=", float[1,2,1,1] sum = {1, 1}",
    )
    assert_same_function(model)


def test_flattened_some_other_way() -> None:
    model = graph(
        "a = Conv(x, swap) g = GlobalAveragePool(a) f = Reshape(g, two) y = Gemm(f, single)",
        more=", int64[2] two = {-1, 1}, float[1,3] single = {1, 2, 3}",
    )
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    assert_same_function(model)


def test_a_factor_stays_with_its_channel() -> None:
    """By hand: [2, 3] on the outputs of the first, divided out of each group of the second."""
    ready = prepare(graph("a = Conv(x, swap, b) r = Relu(a) y = Conv<group=2>(r, deep)"))
    (found,) = find_scalable(ready)
    assert found.tensors == {"a", "r"}
    assert [reader.weight for reader in found.readers] == ["deep"]
    twin = rescale(ready, [found], [np.array([2.0, 4.0])])

    def read(model: ModelProto, name: str) -> NDArray[Any]:
        return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}[name]

    assert read(twin, "swap").reshape(-1).tolist() == [0, 2, 4, 0]
    assert read(twin, "b").tolist() == [20, 80]
    assert np.array_equal(read(twin, "deep")[0], read(ready, "deep")[0] / 2)
    assert np.array_equal(read(twin, "deep")[1], read(ready, "deep")[1] / 4)
