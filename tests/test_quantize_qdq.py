"""Where Q/DQ nodes go and where they never do, and that runtimes take the model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch.nn import functional

from repvgg_deploy.engine.network import parse
from repvgg_deploy.engine.precision import layer_table, mismatches
from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.quantize.layers import Layer, QuantizedLayer, find_layers, left_in_float
from repvgg_deploy.quantize.prepare import prepare
from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.read import read_qdq
from repvgg_deploy.reparam.graph import fuse_graph
from repvgg_deploy.runners.onnx_session import OrtSession

from .graphs import graph, operators
from .helpers import GOLDEN, randomized, tiny_spec
from .int8 import quantized_layers


def network(**changes: object) -> ModelProto:
    torch.manual_seed(0)
    return to_onnx(randomized(RepVGG(tiny_spec(**changes), "deploy")), (32, 32))


def peer(name: str) -> ModelProto:
    return fuse_graph(onnx.load(GOLDEN / f"{name}.onnx")).model


def quantize(
    model: ModelProto, float_type: str = "fp32", stem: bool = True, linear: bool = False
) -> ModelProto:
    ready = prepare(model)
    layers = find_layers(ready, stem=stem, linear=linear)
    return insert_qdq(model, quantized_layers(ready, layers, float_type), float_type)


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


#: name -> (model, quantized convolutions, weighted nodes in float)
NETWORKS = {
    "plain": (lambda: network(), 6, 1),
    "g4": (lambda: network(groups=4), 6, 1),
    "se": (lambda: network(se_ratio=4), 6, 13),
    "official_se": (lambda: peer("official_se"), 9, 19),
    "post_se": (lambda: peer("repvggplus_pse"), 13, 24),
    "mobileone": (lambda: peer("apple_mobileone"), 13, 1),
    "timm_mobileone": (lambda: peer("timm_mobileone"), 13, 1),
    "yolov6": (lambda: peer("yolov6_blocks"), 5, 0),
    "silu": (lambda: peer("yolov7_repconv"), 5, 0),
}


def assert_placed(before: ModelProto, after: ModelProto, chosen: list[Layer]) -> None:
    """Edge by edge: a Q/DQ pair on the input and a DQ on the weight of each of ``chosen``, and no
    other edge of the graph has changed."""
    made = {name: node for node in after.graph.node for name in node.output}
    read: dict[str, list[NodeProto]] = {}
    for node in after.graph.node:
        for name in node.input:
            read.setdefault(name, []).append(node)
    constants = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    nodes = {node.name: node for node in after.graph.node}
    expected = {layer.name: layer for layer in chosen}
    pairs = set()
    for layer in chosen:
        dq, weight = (made[name] for name in nodes[layer.name].input[:2])
        assert dq.op_type == weight.op_type == "DequantizeLinear"
        q = made[dq.input[0]]
        assert q.op_type == "QuantizeLinear" and q.input[0] == layer.input
        assert list(q.input[1:]) == list(dq.input[1:])
        assert constants[q.input[1]].shape == () and constants[q.input[2]] == np.int8(0)
        assert constants[weight.input[0]].dtype == np.int8
        (axis,) = weight.attribute
        assert axis.name == "axis" and axis.i == 0
        outputs = len(constants[weight.input[0]])
        assert constants[weight.input[1]].shape == (outputs,)
        assert np.array_equal(constants[weight.input[2]], np.zeros(outputs, np.int8))
        assert all(reader.name in expected for reader in read[dq.output[0]])
        assert [reader.name for reader in read[q.output[0]]] == [dq.name]
        assert [reader.name for reader in read[weight.output[0]]] == [layer.name]
        assert all(name in constants for name in nodes[layer.name].input[2:])
        pairs |= {q.name, dq.name, weight.name}
    others = [node for node in after.graph.node if node.name not in pairs | set(expected)]
    assert others == [node for node in before.graph.node if node.name not in expected]
    assert [v.name for v in after.graph.output] == [v.name for v in before.graph.output]


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_outside_squeeze_excitation(name: str, float_type: str) -> None:
    make, convs, in_float = NETWORKS[name]
    ready = prepare(make())
    layers = find_layers(ready)
    assert (len(layers), len(left_in_float(ready))) == (convs, in_float)
    quantized = insert_qdq(ready, quantized_layers(ready, layers, float_type), float_type)
    assert_placed(ready, quantized, layers)
    found = read_qdq(quantized)
    assert [layer.name for layer in found.layers] == [layer.name for layer in layers]
    assert sorted(found.kept) == sorted(left_in_float(ready))


def test_what_is_left_says_why() -> None:
    reasons = left_in_float(prepare(network(se_ratio=4)), stem=False)
    assert reasons["stage0.rbr_reparam/Conv"] == "is the stem"
    assert reasons["stage0.se.down/Conv"] == "belongs to squeeze-excitation"
    assert reasons["linear/Gemm"] == "is a linear layer, which is quantized on request"


@pytest.mark.parametrize("name", ["plain", "mobileone", "silu"])
def test_without_the_stem(name: str) -> None:
    ready = prepare(NETWORKS[name][0]())
    layers = find_layers(ready, stem=False)
    assert len(layers) == NETWORKS[name][1] - 1
    assert_placed(ready, quantize(ready, stem=False), layers)


def test_the_linear_layer_on_request() -> None:
    ready = prepare(network())
    layers = find_layers(ready, linear=True)
    assert layers[-1].kind == "Gemm"
    assert_placed(ready, quantize(ready, linear=True), layers)


def with_linear(body: str, weight: str, bias: str = "float[3] v = {1, 2, 3}") -> ModelProto:
    head = "a = GlobalAveragePool(x) f = Flatten(a) "
    model = graph(f"{head} {body}", more=f", float{weight}, {bias}")
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    return model


def test_a_linear_layer_lies_either_way(tmp_path: Path) -> None:
    feed = {"x": np.random.default_rng(0).standard_normal((4, 2, 5, 5), np.float32)}
    outputs = []
    for body, weight in (
        ("y = Gemm<transB=1>(f, w, v)", "[3,2] w = {1, 2, 30, 40, 500, 600}"),
        ("y = Gemm(f, w, v)", "[2,3] w = {1, 30, 500, 2, 40, 600}"),
    ):
        model = with_linear(body, weight)
        quantized = quantize(model, linear=True)
        (layer,) = read_qdq(quantized).layers
        assert layer.weight.tolist() == [[64, 127], [95, 127], [106, 127]]
        assert np.allclose(layer.weight_scales, np.array([2, 40, 600]) / 127)
        path = save(quantized, tmp_path / "m.onnx")
        outputs.append(OrtSession(path).run(feed)["y"])
        exact = OrtSession(save(model, tmp_path / "f.onnx")).run(feed)["y"]
        assert np.abs(outputs[-1] - exact).max() < 0.05 * np.abs(exact).max()
    assert np.allclose(*outputs, rtol=1e-6)  # two kernels, each with roundings of its own


@pytest.mark.parametrize(
    ("body", "bias"),
    [
        ("y = Gemm<transB=1, alpha=2.0>(f, w, v)", "float[3] v = {1, 2, 3}"),
        ("y = Gemm<transB=1, beta=0.5>(f, w, v)", "float[3] v = {1, 2, 3}"),
        ("y = Gemm<transB=1>(f, w, v)", "float[1] v = {1}"),
    ],
)
def test_a_gemm_of_another_form_stays_in_float(body: str, bias: str) -> None:
    ready = prepare(with_linear(body, "[3,2] w = {1, 2, 3, 4, 5, 6}", bias))
    assert find_layers(ready, linear=True) == []
    (reason,) = left_in_float(ready, linear=True).values()
    assert reason == "is a Gemm of another form than x W + b"


def test_convolutions_that_read_one_tensor_share_its_pair() -> None:
    ready = prepare(graph("p = Conv(x, swap) q = Conv(x, swap, b) y = Add(p, q)"))
    quantized = quantize(ready)
    assert operators(quantized)["QuantizeLinear"] == 1
    assert operators(quantized)["DequantizeLinear"] == 3  # the activation, and each weight
    assert_placed(ready, quantized, find_layers(ready))


def test_another_scale_of_one_tensor_has_a_pair_of_its_own() -> None:
    ready = prepare(graph("p = Conv(x, swap) q = Conv(x, swap, b) y = Add(p, q)"))
    one, two = find_layers(ready)
    layers = quantized_layers(ready, [one]) + quantized_layers(ready, [two], input_scale=0.1)
    quantized = insert_qdq(ready, layers, "fp32")
    assert operators(quantized)["QuantizeLinear"] == 2
    assert [layer.input_scale for layer in read_qdq(quantized).layers] == [
        float(np.float32(scale)) for scale in (0.05, 0.1)
    ]


def test_shared_weights_become_one_each_and_nameless_nodes_get_names() -> None:
    model = graph("p = Conv(x, swap) q = Conv(p, swap) y = Relu(q)")
    ready = prepare(model)
    layers = find_layers(ready)
    assert [layer.name for layer in layers] == ["p/Conv", "q/Conv"]
    assert len({layer.weight for layer in layers}) == 2
    assert prepare(model) == ready == prepare(ready)
    layers_int8 = quantized_layers(ready, layers)
    assert operators(insert_qdq(model, layers_int8, "fp32")) == operators(quantize(ready))


def test_a_weight_from_a_constant_node_and_an_added_bias() -> None:
    body = "w = Constant<value = float[2,2,1,1] {0, 1, 1, 0}>() y = Conv(x, w)"
    ready = prepare(graph(body))
    (layer,) = find_layers(ready)
    (made,) = quantized_layers(ready, [layer])
    bias = np.array([5, 6], np.float32)
    with_bias = QuantizedLayer(made.name, made.input_scale, made.weight, made.weight_scales, bias)
    (found,) = read_qdq(insert_qdq(ready, [with_bias], "fp32")).layers
    assert np.array_equal(found.bias, bias) and np.array_equal(found.weight, made.weight)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("w = Mul(swap, half) y = Conv(x, w)", "has weights that are not constant"),
        ("y = ConvTranspose(x, swap)", "is a ConvTranspose, which is not quantized"),
    ],
)
def test_what_is_not_quantized(body: str, reason: str) -> None:
    assert list(left_in_float(prepare(graph(body))).values()) == [reason]
    assert find_layers(prepare(graph(body))) == []


@pytest.mark.parametrize(
    ("body", "convs"),
    [
        # the factors of a Mul, made of one number a channel
        ("g = GlobalAveragePool(x) c = Conv(g, swap) s = Sigmoid(c) y = Mul(x, s)", 0),
        ("g = ReduceMean<axes=[2, 3]>(x) c = Conv(g, swap) s = HardSigmoid(c) y = Mul(s, x)", 0),
        ("g = GlobalAveragePool(x) c = Conv(g, swap) h = Add(c, two_three) s = Clip(h, zero) "
         "t = Mul(s, half) y = Mul(x, t)", 0),
        # pooled, but nothing is gated by it
        ("g = GlobalAveragePool(x) y = Conv(g, swap)", 1),
        # SiLU gates too, but by whole maps
        ("c = Conv(x, swap) s = Sigmoid(c) y = Mul(c, s)", 1),
        # behind the gate all is as before
        ("g = GlobalAveragePool(x) c = Conv(g, swap) m = Mul(x, c) y = Conv(m, swap)", 1),
        # whole maps that a mean was taken from are no pooled maps
        ("g = GlobalAveragePool(x) m = Sub(x, g) c = Conv(m, swap) y = Mul(c, x)", 1),
    ],
)  # fmt: skip
def test_squeeze_excitation_is_told_by_the_graph(body: str, convs: int) -> None:
    assert len(find_layers(prepare(graph(body)))) == convs


@pytest.mark.parametrize("opset", [11, 13, 17, 19, 21])
def test_a_graph_of_any_opset_computes_the_same(opset: int, tmp_path: Path) -> None:
    floats = "float[4] scales = {1, 1, 2, 2}, float[0] roi = {}"
    body = (
        "c = Conv(x, three) r = Relu(c) a = AveragePool<kernel_shape=[2, 2]>(r) "
        'y = Resize<mode="nearest">(a, roi, scales)'
    )
    head = f'<ir_version: 7, opset_import: ["" : {opset}]>'
    model = graph(body, head=head, more=f", {floats}")
    ready = prepare(model)
    assert ready.opset_import[0].version == max(opset, 19)
    feed = {"x": np.random.default_rng(0).standard_normal((1, 2, 6, 6), np.float32)}
    runs = [OrtSession(save(m, tmp_path / "m.onnx")).run(feed)["y"] for m in (model, ready)]
    assert np.allclose(*runs, rtol=1e-6)  # kernels of two opsets add up in their own order
    half = quantize(model, "fp16")
    assert OrtSession(save(half, tmp_path / "m.onnx")).run(feed)["y"].shape == runs[0].shape


def by_hand(
    layers: list[QuantizedLayer], x: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """conv, ReLU, conv in integers, as int8 hardware has it; and the step of its last input."""
    values = torch.from_numpy(x)
    first, second = layers
    for layer in (first, second):
        scale = np.float32(layer.input_scale)
        integers = torch.clamp(torch.round(values / scale), -128, 127).double()
        total = functional.conv2d(integers, torch.tensor(layer.weight).double(), padding=0)
        factors = torch.tensor(layer.weight_scales).double() * float(scale)
        assert layer.bias is not None
        values = total * factors.reshape(-1, 1, 1) + torch.tensor(layer.bias).reshape(-1, 1, 1)
        if layer is first:
            values = torch.relu(values).float()
    weight = np.abs(second.weight).reshape(2, -1).max(1) * second.weight_scales
    return values.numpy(), float(weight.max() * second.input_scale)


def test_onnxruntime_computes_what_integers_do(tmp_path: Path) -> None:
    model = graph("c = Conv(x, three, b) r = Relu(c) y = Conv(r, swap, b)")
    ready = prepare(model)
    one, two = find_layers(ready)
    layers = quantized_layers(ready, [one]) + quantized_layers(ready, [two], input_scale=0.4)
    path = save(insert_qdq(model, layers, "fp32"), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((8, 2, 9, 9), np.float32)
    expected, step = by_hand(layers, x)
    found = OrtSession(path).run({"x": x})["y"]
    off = np.abs(found - expected)
    assert (off > 1e-3 * step).mean() < 0.001  # a value on the edge between two integers
    assert off.max() <= 2.001 * step
    assert np.abs(found).max() > 20 * step


def test_fp16_runs_and_stays_near_fp32(tmp_path: Path) -> None:
    arrays = np.load(GOLDEN / "official_deployed.npz")
    model = peer("official_deployed")
    outputs = []
    for float_type in ("fp32", "fp16"):
        session = OrtSession(save(quantize(model, float_type), tmp_path / "m.onnx"))
        (name, _, _) = session.inputs[0]
        (output,) = session.run({name: arrays["x"]}).values()
        outputs.append(output.astype(np.float64))
        assert output.dtype == (np.float16 if float_type == "fp16" else np.float32)
    span = np.abs(outputs[0]).max()
    assert np.abs(outputs[0] - outputs[1]).max() < 0.1 * span


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("c = Conv(x, swap) d = Cast<to=1>(c) y = Relu(d)", "Cast 'd/Cast' is not one that"),
        ("c = Conv(x, swap) y = Mul(c, huge)", "huge reaches 7e+04, beyond float16's largest"),
        ("c = Conv(x, swap) k = Constant<value_float=2.0>() y = Mul(c, k)",
         "Constant 'k/Constant' holds its floats as an attribute"),
    ],
)  # fmt: skip
def test_what_fp16_refuses(body: str, sentence: str) -> None:
    model = graph(body, more=", float huge = {70000}")
    assert operators(quantize(model, "fp32"))["QuantizeLinear"] == 1
    with pytest.raises(UserError, match="use fp32 for what is not quantized") as error:
        quantize(model, "fp16")
    assert sentence in str(error.value)


def test_scales_have_to_be_what_the_type_holds() -> None:
    ready = prepare(graph("y = Conv(x, swap)"))
    layers = quantized_layers(ready, find_layers(ready), "fp32")
    with pytest.raises(ValueError, match="is not one that float16 holds exactly"):
        insert_qdq(ready, layers, "fp16")
    (layer,) = layers
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        wrong = QuantizedLayer(layer.name, bad, layer.weight, layer.weight_scales, None)
        with pytest.raises(ValueError, match="is not positive"):
            insert_qdq(ready, [wrong], "fp32")
    strange = QuantizedLayer("elsewhere", 1.0, layer.weight, layer.weight_scales, None)
    with pytest.raises(ValueError, match="'elsewhere' is no layer"):
        insert_qdq(ready, [strange], "fp32")


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    ("float_type", "targets"), [("fp32", ("SM86", "SM89")), ("fp16", ("SM75", "SM86"))]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_tensorrt_types_every_layer_as_it_was_chosen(
    name: str, float_type: str, targets: tuple[str, ...], linear: bool, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    ready = prepare(NETWORKS[name][0]())
    layers = find_layers(ready, linear=linear)
    path = save(quantize(ready, float_type, linear=linear), tmp_path / "m.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    parsed = parse(trt, builder, logger, path)
    table = layer_table(trt, parsed)
    assert mismatches(table, "int8") == []
    types = Counter((row.kind, row.input, row.weight, row.output) for row in table)
    kinds = Counter(layer.kind for layer in layers)
    assert types["convolution", "int8", "int8", float_type] == kinds["Conv"]
    assert types["matrix product", "int8", "int8", float_type] == kinds["Gemm"]
    assert len(table) == len(layers) + len(left_in_float(ready, linear=linear))
    if name in ("plain", "se", "silu"):  # a build takes a while
        assert len(built(trt, builder, parsed, targets)) > 10_000


def built(trt: Any, builder: Any, parsed: Any, targets: tuple[str, ...]) -> bytes:
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    image = parsed.get_input(0)
    if -1 in list(image.shape):
        profile = builder.create_optimization_profile()
        sizes = [(batch, *list(image.shape)[1:]) for batch in (1, 4, 8)]
        profile.set_shape(image.name, *sizes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(parsed, config)
    return b"" if engine is None else bytes(memoryview(engine))


def test_functions_are_refused() -> None:
    model = graph("y = Conv(x, swap)")
    model.functions.add().name = "own"
    with pytest.raises(UserError, match="holds functions; inline them"):
        prepare(model)
