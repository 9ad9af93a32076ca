"""The proof of graphs: it accepts what is right, catches every fault, and says what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from repvgg_deploy.equivalence.graph import prove_graphs
from repvgg_deploy.equivalence.graph_inputs import read_inputs
from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.graph import GraphFusion, fuse_graph, rewrite
from repvgg_deploy.runners.onnx_errors import in_words
from repvgg_deploy.runners.onnx_reference import OnnxFloat64

from .graphs import HEAD, graph, many, save
from .helpers import GOLDEN

SOURCE = GOLDEN / "official_ddp.bn.onnx"


def changed_source(change: Callable[[ModelProto], None]) -> GraphFusion:
    """The network with a fault in its branches, fused."""
    model = onnx.load(SOURCE)
    change(model)
    return fuse_graph(model)


def ends(fusion: GraphFusion) -> list[str]:
    return [region.end for region in fusion.fused]


def change_tensor(model: ModelProto, name: str, change: Callable[..., np.ndarray]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def norms(model: ModelProto) -> list[onnx.NodeProto]:
    """The batch norms of one block in the middle: 3x3, 1x1 and identity."""
    nodes = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    return [n for n in nodes if "stage3.1" in n.name]


def drop_a_branch(model: ModelProto) -> None:
    change_tensor(model, norms(model)[0].input[1], lambda gamma: gamma * 0)
    change_tensor(model, norms(model)[0].input[2], lambda beta: beta * 0)


def wrong_eps(model: ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3


def without_mean(model: ModelProto) -> None:
    change_tensor(model, norms(model)[1].input[3], lambda mean: mean * 0)


def swap_branches(model: ModelProto) -> None:
    """Each of two branches gets the other's statistics."""
    one, two = norms(model)[:2]
    names = list(one.input[1:]), list(two.input[1:])
    one.input[1:], two.input[1:] = names[1], names[0]


BRANCH_FAULTS = [drop_a_branch, wrong_eps, without_mean, swap_branches]


@pytest.mark.parametrize("fault", BRANCH_FAULTS)
def test_faults_in_the_branches_are_caught(
    fault: Callable[[ModelProto], None], tmp_path: Path
) -> None:
    wrong = changed_source(fault)
    proof = prove_graphs(SOURCE, save(wrong.model, tmp_path / "wrong.onnx"), regions=ends(wrong))
    assert not proof.passed
    assert proof.worst is not None
    assert proof.worst.ratio > 100


def shift(kernel: np.ndarray) -> np.ndarray:
    return np.roll(kernel, 1, axis=2)


def identity_of_one_group(kernel: np.ndarray) -> np.ndarray:
    """Ones where an identity without groups has them, cut to a group's columns."""
    rows, columns = kernel.shape[:2]
    wrong = np.eye(rows, columns, dtype=kernel.dtype)
    right = np.tile(np.eye(columns, dtype=kernel.dtype), (rows // columns, 1))
    kernel = kernel.copy()
    kernel[:, :, 1, 1] += wrong - right
    return kernel


@pytest.mark.parametrize("fault", [shift, identity_of_one_group])
def test_faults_in_one_fused_kernel_are_caught(
    fault: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    fusion = fuse_graph(onnx.load(SOURCE))
    fused = fusion.model
    grouped = [
        n for n in fused.graph.node
        if n.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in n.attribute)
    ]  # fmt: skip
    change_tensor(fused, grouped[0].input[1], fault)
    proof = prove_graphs(SOURCE, save(fused, tmp_path / "wrong.onnx"), regions=ends(fusion))
    assert not proof.passed
    assert any(line.startswith(grouped[0].output[0]) for line in proof.failures)
    assert proof.to_dict()["passed"] is False


def test_a_leaking_bias_is_caught(tmp_path: Path) -> None:
    """Right everywhere but at the borders."""
    right = save(graph("t = Conv(x, swap, b)  y = Conv<pads=[1,1,1,1]>(t, three)"), tmp_path / "a")
    leaking = graph("t = Conv(x, swap)  u = Conv<pads=[1,1,1,1]>(t, three)  y = Add(u, k)",
                    more=", float[2,1,1] k = {470, 920}")  # fmt: skip
    interior = OnnxFloat64(graph("t = Conv(x, swap, b)  y = Conv(t, three)"))
    plain = OnnxFloat64(graph("t = Conv(x, swap)  u = Conv(t, three)  y = Add(u, k)",
                              more=", float[2,1,1] k = {470, 920}"))  # fmt: skip
    x = {"x": np.ones((1, 2, 5, 5))}
    assert np.allclose(interior.run(x)["y"], plain.run(x)["y"])
    assert not prove_graphs(right, save(leaking, tmp_path / "b")).passed


def test_what_the_optimiser_of_the_runtime_does_is_no_ruler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded into float16 these weights keep one digit, and ONNX Runtime would fold them too."""
    generator = np.random.default_rng(0)
    model = parser.parse_model(
        f"""{HEAD} g (float16[n,8,h,w] x) => (float16[n,8,h,w] y) {{
          a = Mul(x, k)  r = Relu(a)  t = Conv<pads=[1,1,1,1]>(r, w)
          y = BatchNormalization(t, g, z, z, o) }}"""
    )
    kernel = 0.02 * generator.standard_normal((8, 8, 3, 3))
    constants = {"k": 1000, "w": kernel, "g": 8 * [3e-6], "z": 8 * [0], "o": 8 * [1]}
    for name, values in constants.items():
        tensor = numpy_helper.from_array(np.asarray(values, np.float16), name)
        model.graph.initializer.append(tensor)
    source = save(model, tmp_path / "a.onnx")
    assert fuse_graph(model).fused == ()
    monkeypatch.setattr(rewrite, "_LOSS", float("inf"))
    ruined = fuse_graph(model)
    assert len(ruined.fused) == 1
    assert not prove_graphs(source, save(ruined.model, tmp_path / "b.onnx")).passed


def test_inner_tensors_of_one_name_need_not_be_the_same(tmp_path: Path) -> None:
    """Tools that fold batch norm keep the convolution's name: outputs alone are compared."""
    norm = "u = BatchNormalization(t, gamma, beta, mean, var)"
    source = save(graph(f"t = Conv(x, swap)  {norm}  y = Relu(u)"), tmp_path / "a.onnx")
    fused = fuse_graph(onnx.load(source))
    for node in fused.model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["t" if name == "u" else name for name in names]
    candidate = save(fused.model, tmp_path / "b.onnx")
    assert prove_graphs(source, candidate).passed
    assert not prove_graphs(source, candidate, regions=["t"]).passed


def test_given_inputs(tmp_path: Path) -> None:
    source = save(many(), tmp_path / "a.onnx")
    inputs = {"x": np.ones((1, 2, 3, 3)), "s": np.ones(3)}
    assert prove_graphs(source, source, inputs).outputs[0].samples == 1
    with pytest.raises(UserError, match=r"takes the inputs \['s', 'x'\].*given: \['x'\]"):
        prove_graphs(source, source, {"x": inputs["x"]})
    with pytest.raises(UserError, match="'x' holds no samples"):
        prove_graphs(source, source, {**inputs, "x": np.ones((0, 2, 3, 3))})
    with pytest.raises(UserError, match=r"holds <U1, and .* takes numbers"):
        prove_graphs(source, source, {**inputs, "s": np.array(["a"])})
    with pytest.raises(UserError, match="ONNX Runtime cannot run it: Got invalid dim"):
        prove_graphs(source, source, {**inputs, "x": np.ones((1, 3, 3, 3))})


def test_integers_for_a_float_input_become_floats(tmp_path: Path) -> None:
    source = save(graph("y = Conv(x, swap)"), tmp_path / "a.onnx")
    image = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)
    proofs = [prove_graphs(source, source, {"x": image.astype(t)}) for t in ("u1", "f4")]
    assert proofs[0] == proofs[1]
    half = parser.parse_model(f"{HEAD} g (float16[n] x) => (float16[n] y) {{ y = Neg(x) }}")
    source = save(half, tmp_path / "half.onnx")
    assert prove_graphs(source, source, {"": np.arange(3)}).passed


def test_of_many_arrays_a_few_are_named(tmp_path: Path) -> None:
    source = save(graph("y = Neg(x)"), tmp_path / "a.onnx")
    arrays = {f"data/{number:03}": np.ones(1) for number in range(100)}
    with pytest.raises(UserError, match=r"these were given: .*'data/005'\] and 94 more\.$"):
        prove_graphs(source, source, arrays)


def test_larger_noise_where_the_model_refuses_32_pixels(tmp_path: Path) -> None:
    big = parser.parse_model(
        f"{HEAD} g (float[n,1,h,w] x) => (float[n,1,k,l] y) <float[1,1,1,1] k0 = {{2}}>"
        "{ p = MaxPool<kernel_shape=[40,40]>(x)  y = Conv(p, k0) }"
    )
    source = save(big, tmp_path / "a.onnx")
    assert prove_graphs(source, source).outputs[0].samples == 2 * 4  # four rounds of batch 2


def test_models_that_noise_cannot_feed(tmp_path: Path) -> None:
    tokens = parser.parse_model(f"{HEAD} g (int64[n] x) => (int64[n] y) {{ y = Neg(x) }}")
    source = save(tokens, tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"'x' is a tensor\(int64\).*\.npz"):
        prove_graphs(source, source)
    assert prove_graphs(source, source, {"x": np.arange(3)}).worst is None
    huge = parser.parse_model(
        f"{HEAD} g (float[n,1,h,w] x) => (float[n,1,k,l] y)"
        "{ y = MaxPool<kernel_shape=[999,999]>(x) }"
    )
    with pytest.raises(UserError, match="does not run on made-up inputs"):
        prove_graphs(save(huge, tmp_path / "b.onnx"), tmp_path / "b.onnx")


def test_two_networks_are_not_compared(tmp_path: Path) -> None:
    one = save(graph("y = Neg(x)"), tmp_path / "a.onnx")
    other = save(graph("z = Neg(x)", output="z"), tmp_path / "b.onnx")
    with pytest.raises(UserError, match="has other outputs than"):
        prove_graphs(one, other)
    with pytest.raises(UserError, match="has other inputs than"):
        prove_graphs(one, save(many(), tmp_path / "c.onnx"))


def test_inputs_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    assert read_inputs(tmp_path / "x.npz")["x"].tolist() == [1, 1, 1]
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(UserError, match=r"no such file; give the path of an \.npz or \.npy"):
        read_inputs(tmp_path / "gone.npz")
    with pytest.raises(UserError, match=r"is not an \.npz or \.npy file"):
        read_inputs(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x\n"
            " index: 1 Got: 3 Expected: 2",
            "Got invalid dimensions for input: x index: 1 Got: 3 Expected: 2",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
            "running Add node. Name:'y' Status Message: /src/core/element_wise_ops.h:540 void "
            "onnxruntime::Broadcaster::Append(ptrdiff_t, ptrdiff_t) axis == 1 || axis == largest "
            "was false. Attempting to broadcast an axis by 3.",
            "Non-zero status code returned while running Add node. Name:'y' Status Message: "
            "Attempting to broadcast an axis by 3.",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /src/session.cc:12 T onnxruntime::Get(const C&, int) "
            "[with T = std::vector<int>; C = A<B>] no such kernel",
            "no such kernel",
        ),
        ("x" * 400, "x" * 300 + "..."),
    ],
)
def test_messages_of_the_runtime_in_words(said: str, words: str) -> None:
    assert in_words(Exception(said)) == words
