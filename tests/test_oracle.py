"""The truth that ONNX graphs are judged by: right, checked, and fair to ill-conditioned graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repvgg_deploy.equivalence.compare import compare
from repvgg_deploy.equivalence.graph import GraphProof, prove_graphs
from repvgg_deploy.equivalence.oracle import ExactGraph, checked_truth, in_rounds
from repvgg_deploy.errors import CheckFailed
from repvgg_deploy.reparam.graph import fuse_graph
from repvgg_deploy.runners import onnx_operators, onnx_reference
from repvgg_deploy.runners.onnx_precision import in_float32
from repvgg_deploy.runners.onnx_reference import OnnxFloat64
from repvgg_deploy.runners.onnx_rounding import run_rounded
from repvgg_deploy.runners.onnx_session import OrtSession
from repvgg_deploy.steps.bench_faith import Yardstick
from repvgg_deploy.steps.bench_subjects import onnx_entrant

from .conftest import Cli
from .graphs import HEAD, graph, save
from .test_onnx_operators import newest

Arrays = dict[str, NDArray[Any]]
node = helper.make_node
#: ONNX's evaluator was wrong below 14 and failed below 9; Q/DQ had nothing below 19.
OPSETS = [*range(7, 18), 19, 21, "newest"]


def model_of(
    nodes: list[NodeProto],
    constants: Arrays,
    shapes: tuple[list[Any], list[Any]],
    opset: int = 17,
    element: int = TensorProto.FLOAT,
) -> ModelProto:
    """From x to y; float constants in the type of ``element``."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    ends = [
        helper.make_tensor_value_info(*end)
        for end in (("x", element, shapes[0]), ("y", element, shapes[1]))
    ]
    held = [
        numpy_helper.from_array(
            np.ascontiguousarray(a).astype(kind if a.dtype.kind == "f" else a.dtype), name
        )
        for name, a in constants.items()
    ]
    inner = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_norm(opset: int, element: int = TensorProto.FLOAT, quantize: bool = False) -> ModelProto:
    """A 3x3 convolution with batch norm, Q/DQ behind it on demand, and a 1x1 convolution."""
    generator = np.random.default_rng(0)
    names = ("gamma", "beta", "mean", "var")
    constants: Arrays = {"w": generator.standard_normal((4, 3, 3, 3))}
    constants |= {name: np.abs(generator.standard_normal(4)) + 0.1 for name in names}
    constants["last"] = generator.standard_normal((5, 4, 1, 1))
    between = [
        node("QuantizeLinear", ["n", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
    ]
    if quantize:
        constants |= {"scale": np.array(0.05), "zero": np.array(0, np.int8)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", *names], ["n"], momentum=0.9),
        *(between if quantize else [node("Relu", ["n"], ["d"])]),
        node("Conv", ["d", "last"], ["y"]),
    ]
    shapes = (["n", 3, 8, 8], ["n", 5, 8, 8])
    return model_of(nodes, constants, shapes, opset, element)


def changed(model: ModelProto, name: str, change: Callable[..., NDArray[Any]]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (tensor for tensor in copy.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    new = np.ascontiguousarray(change(values.copy())).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return copy


def proved(
    one: ModelProto, other: ModelProto, folder: Path, ends: Sequence[str] = ()
) -> GraphProof:
    source = save(one, folder / "one.onnx")
    return prove_graphs(source, save(other, folder / "other.onnx"), regions=ends)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_wrong_weights_beside_batch_norm_fail_at_every_opset(
    opset: int | str, element: int, tmp_path: Path
) -> None:
    model = conv_norm(opset if isinstance(opset, int) else newest(), element)
    assert proved(model, fuse_graph(model).model, tmp_path).passed
    for wrong in (
        changed(model, "w", lambda w: w * 1.3),
        changed(model, "mean", lambda mean: mean[::-1]),
    ):
        assert not proved(model, wrong, tmp_path).passed
        assert not proved(model, fuse_graph(wrong).model, tmp_path).passed


@pytest.mark.parametrize("opset", [10, 13, 17, 19, 21])
def test_quantized_graphs_are_proved_at_every_opset(opset: int, tmp_path: Path) -> None:
    model = conv_norm(opset, quantize=True)
    fusion = fuse_graph(model)
    assert len(fusion.fused) == 1
    assert proved(model, fusion.model, tmp_path).passed
    assert not proved(model, changed(model, "w", lambda w: w * 1.05), tmp_path).passed


def test_the_command_says_which_weights_are_inputs(cli: Cli) -> None:
    model = conv_norm(17)
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    save(model, Path("keep.onnx"))
    result = cli("fuse", "keep.onnx", "-o", "fused.onnx")
    assert "'w' are an input of the model too" in result.err
    assert "onnxruntime.tools.remove_initializer_from_input" in result.err


class WrongRelu(onnx_operators._Operator):
    """An evaluator that is wrong by less than one would see."""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.maximum(x, 1e-3 * x),)


WrongRelu.__name__ = "Relu"


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    operators = [*onnx_operators.OPERATORS, WrongRelu]
    monkeypatch.setattr(onnx_reference, "OPERATORS", operators)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_nothing_is_proved_by_a_wrong_truth(element: int, wrong: None, tmp_path: Path) -> None:
    model = conv_norm(17, element)
    with pytest.raises(CheckFailed, match="cannot be proved here, because its 'y' in ONNX Runtime"):
        proved(model, model, tmp_path)


def test_bench_does_not_call_it_the_same_network(wrong: None, tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]), node("Flatten", ["p"], ["y"]),
    ]  # fmt: skip
    kernel = {"w": np.random.default_rng(0).standard_normal((4, 3, 3, 3))}
    path = save(model_of(nodes, kernel, (["n", 3, 8, 8], ["n", 4])), tmp_path / "a.onnx")
    entrant = onnx_entrant(path, "a")
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    output = next(iter(OrtSession(path).run({"x": images}).values())).astype(np.float64)
    assert "cannot be proved here" in Yardstick([entrant]).doubt(entrant, images, output, "fp32")


def test_integers_of_a_wrong_truth(wrong: None, tmp_path: Path) -> None:
    """Behind a right ReLU the smallest of a few zeros is the first one."""
    body = "r = Relu(x)  y = ArgMin<axis=1>(r)"
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[n,2,h,w] x) => (int64[n,1,h,w] y) {{ {body} }}"
    )
    with pytest.raises(CheckFailed, match=r"differ in \d+ of \d+ values"):
        proved(model, model, tmp_path)


def offset_network() -> ModelProto:
    """Ill-conditioned: a branch that subtracts 1024 exactly, which no one kernel can.

    The input is cut to multiples of 1/64, so that the branch does not round at all; fused, the
    kernel multiplies the 1024 by a weight that was rounded.
    """
    generator = np.random.default_rng(0)
    kernel = 1e-3 * generator.standard_normal((8, 8, 3, 3))
    kernel = (kernel - kernel.mean((1, 2, 3), keepdims=True)).astype(np.float32)
    constants: Arrays = {
        "fine": np.array(64.0), "coarse": np.array(1 / 64), "offset": np.full((8, 1, 1), 1024.0),
        "factor": 10 + generator.standard_normal((8, 1, 1)), "w": kernel,
        "gamma": 0.1 + 0.01 * generator.standard_normal(8), "beta": generator.standard_normal(8),
        "mean": 1024.0 * kernel.sum((1, 2, 3)), "var": np.ones(8),
        "last": generator.standard_normal((5, 8, 3, 3)),
    }  # fmt: skip
    nodes = [
        node("Mul", ["x", "fine"], ["x1"]), node("Floor", ["x1"], ["x2"]),
        node("Mul", ["x2", "coarse"], ["x3"]), node("Add", ["x3", "offset"], ["a"]),
        node("Sub", ["a", "offset"], ["s"]), node("Mul", ["s", "factor"], ["one"]),
        node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["two"]),
        node("Add", ["one", "two"], ["sum"]), node("Relu", ["sum"], ["r"]),
        node("Conv", ["r", "last"], ["y"]),
    ]  # fmt: skip
    return model_of(nodes, constants, (["n", 8, 12, 12], ["n", 5, 10, 10]))


def largest_off(values: NDArray[Any]) -> NDArray[Any]:
    """The largest weight by 0.1 %."""
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= 1.001
    return values


def without_a_channel(values: NDArray[Any]) -> NDArray[Any]:
    values[0] = 0
    return values


def test_an_ill_conditioned_graph_is_judged_by_its_own_rounding(tmp_path: Path) -> None:
    model = offset_network()
    fusion = fuse_graph(model)
    (region,) = fusion.fused
    assert region.end == "sum"
    proof = proved(model, fusion.model, tmp_path, ["sum"])
    assert proof.passed, proof.failures
    assert any("such a graph" in part.reason for part in (*proof.outputs, *proof.regions))
    # By the original's own rounding error alone it would not pass.
    x = {"x": np.random.default_rng(3).standard_normal((2, 8, 12, 12)).astype(np.float32)}
    own, new = (OrtSession(tmp_path / f"{n}.onnx").run(x)["y"] for n in ("one", "other"))
    assert compare("y", OnnxFloat64(offset_network()).run(x)["y"], own, new).ratio > 8


@pytest.mark.parametrize(
    "change",
    [largest_off, without_a_channel, lambda w: np.roll(w, 1, -1), lambda w: w[::-1]],
    ids=["0.1 %", "channel", "shift", "swap"],
)
def test_faults_in_an_ill_conditioned_graph_are_caught(
    change: Callable[..., NDArray[Any]], tmp_path: Path
) -> None:
    model = offset_network()
    fused = fuse_graph(model).model
    (kernel,) = (
        tensor.name for tensor in fused.graph.initializer if list(tensor.dims) == [8, 8, 3, 3]
    )
    (bias,) = (tensor.name for tensor in fused.graph.initializer if list(tensor.dims) == [8])
    assert not proved(model, changed(fused, kernel, change), tmp_path, ["sum"]).passed
    assert not proved(model, changed(fused, bias, lambda b: b * 1.01), tmp_path, ["sum"]).passed
    if change is not largest_off:
        assert not proved(model, changed(fused, "last", change), tmp_path, ["sum"]).passed


def test_random_roundings_are_of_the_size_of_one_and_leave_no_trace() -> None:
    model = offset_network()
    exact = OnnxFloat64(model)
    x = {"x": np.random.default_rng(3).standard_normal((2, 8, 12, 12))}
    before = exact.run(x)["y"]
    runs = [
        run_rounded(exact, x, 2.0**-40, seed, results=results)["y"]
        for seed, results in ((0, False), (0, False), (1, False), (0, True))
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 0
    errors = [np.abs(run - before).max() / np.abs(before).max() for run in runs]
    assert all(2.0**-42 < error < 2.0**-20 for error in errors)
    np.testing.assert_array_equal(exact.run(x)["y"], before)


def test_random_roundings_leave_sizes_alone() -> None:
    """31.999 pixels would be 31."""
    body = """
        shape = Shape(x)  size = Cast<to = 1>(shape)  larger = Mul(size, twice)
        factors = Div(larger, size)  y = Resize(x, , factors)"""
    model = graph(body, more=", float[4] twice = {1, 1, 2, 2}")
    x = {"x": np.ones((1, 2, 5, 5))}
    assert run_rounded(OnnxFloat64(model), x, 2.0**-11, 0, results=True)["y"].shape[2:] == (10, 10)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_narrow_models_are_widened_as_they_are(kind: type) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = conv_norm(17, element)
    single = in_float32(model)
    assert single is not None
    x = {"x": np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    found = OrtSession(Path("x.onnx"), single.SerializeToString()).run(x)["y"]
    exact = OnnxFloat64(model).run(x)["y"]
    assert exact.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)
    assert in_float32(conv_norm(17)) is None


def test_constants_that_onnx_makes_float32_are_not_rounded() -> None:
    """1 + 1e-9 - 1 is 0 wherever a step is made in float32."""
    body = """
        s = Shape(x)  zeros = ConstantOfShape(s)  one = Constant<value_float: float = 1.0>()
        a = Add(x, one)  b = Add(a, zeros)  y = Sub(b, one)"""
    y = OnnxFloat64(graph(body)).run({"x": np.full((1, 2, 3, 3), 1e-9)})["y"]
    np.testing.assert_allclose(y, 1e-9, rtol=1e-6)


def test_a_training_mode_batch_norm_is_refused_below_opset_14() -> None:
    model = conv_norm(9)
    norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    norm.output.extend(["m", "v", "sm", "sv"])
    with pytest.raises(Exception, match=r"is in training mode .* export the model in eval mode"):
        OnnxFloat64(model).run({"x": np.ones((1, 3, 8, 8))})


def test_quantizing_saturates() -> None:
    """3e9 steps are 127, not what is left of them in 32 bits."""
    body = "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)"
    model = graph(body, more=", float s = {1e-9}, int8 z = {0}")
    y = OnnxFloat64(model).run({"x": np.array([[[[3.0, -3.0]]] * 2])})["y"]
    np.testing.assert_allclose(y.flatten(), [127e-9, -128e-9] * 2)


def test_the_spread_of_a_well_conditioned_graph_is_a_few_roundings() -> None:
    x = [{"x": np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)}]
    model = conv_norm(17)
    own = in_rounds(OrtSession(Path("x.onnx"), model.SerializeToString()), x)
    truth = checked_truth(Path("x.onnx"), model, x, own)
    assert isinstance(truth, ExactGraph)
    for results in (False, True):
        spread = truth.spread("y", "fp32", results=results)
        assert 2.0**-26 < spread.channels < 2.0**-20
        assert 2.0**-26 < spread.values < 2.0**-20
