"""What the proof of graphs makes of outputs that are no plain floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from repvgg_deploy.equivalence.discrete import agree
from repvgg_deploy.equivalence.graph import prove_graphs
from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.graph import fuse_graph

from .graphs import HEAD, graph, many, save


def test_any_number_of_inputs_and_outputs(tmp_path: Path) -> None:
    source = save(many(), tmp_path / "a.onnx")
    fused = fuse_graph(many())
    assert len(fused.fused) == 1
    proof = prove_graphs(source, save(fused.model, tmp_path / "b.onnx"))
    assert proof.passed
    assert [comparison.name for comparison in proof.outputs] == ["y", "q"]
    assert [(part.name, part.candidate) for part in proof.discrete] == [("p", 0), ("a", 0)]


def test_discrete_outputs_have_to_agree(tmp_path: Path) -> None:
    wrong = many()
    wrong.graph.node[2].op_type = "Less"
    proof = prove_graphs(save(many(), tmp_path / "a.onnx"), save(wrong, tmp_path / "b.onnx"))
    values = 4 * 2 * 2 * 32 * 32
    assert proof.failures == [
        f"p: {values} of {values} values differ from the float64 truth, 0 of the reference's do, "
        "and 8 may"
    ]


def rounded_to_integers(offset: float) -> ModelProto:
    """Rounding meets a boundary in one of some ten thousand values; 50 are added and taken off."""
    generator = np.random.default_rng(0)
    model = parser.parse_model(
        f"""{HEAD} g (float[n,8,h,w] x) => (int64[n,8,h,w] y) {{
          t = Conv<pads=[1,1,1,1]>(x, k)  u = BatchNormalization(t, s, b, m, v)  r = Floor(u)
          y = Cast<to=7>(r) }}"""
    )
    constants = {
        "k": generator.standard_normal((8, 8, 3, 3)), "s": 300 * generator.random(8),
        "b": generator.standard_normal(8) + offset, "m": generator.standard_normal(8),
        "v": generator.random(8),
    }  # fmt: skip
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def test_discrete_outputs_may_flip_as_the_reference_does(tmp_path: Path) -> None:
    source = save(rounded_to_integers(0), tmp_path / "a.onnx")
    proof = prove_graphs(source, save(fuse_graph(onnx.load(source)).model, tmp_path / "b.onnx"))
    assert proof.passed
    assert proof.discrete[0].candidate > 0
    wrong = save(fuse_graph(rounded_to_integers(0.01)).model, tmp_path / "c.onnx")
    assert not prove_graphs(source, wrong).passed


@pytest.mark.parametrize(
    ("values", "own", "new", "passed"),
    [
        (8, 0, 1, False),  # the labels of a classifier: one wrong of eight is wrong
        (100, 0, 1, True),
        (8192, 0, 8, True),
        (8192, 0, 9, False),
        (8192, 2, 24, True),
        (8192, 2, 25, False),
        (1000, 300, 400, True),  # a reference that flips a third does not excuse everything
        (1000, 300, 401, False),
    ],
)
def test_how_many_values_may_flip(values: int, own: int, new: int, passed: bool) -> None:
    truth = np.zeros(values, np.int64)
    first, second = (np.where(np.arange(values) < count, 1, 0) for count in (own, new))
    assert agree("y", [truth], [first], [second], 8.0).passed is passed


def test_an_output_whose_shape_hangs_on_the_values(tmp_path: Path) -> None:
    """Every round of noise has another number of positive pixels."""
    model = parser.parse_model(
        f"{HEAD} g (float[n,1,h,w] x) => (int64[r,c] y, float[k] z) <float[1,1,1,1] k = {{2}}>"
        "{ t = Relu(x)  y = NonZero(t)  b = Cast<to=9>(t)  z = Compress(x, f)  f = Reshape(b, o) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "o"))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:3], nodes[4], nodes[3]])
    source = save(model, tmp_path / "a.onnx")
    assert prove_graphs(source, source).passed


def test_outputs_that_are_no_tensors(tmp_path: Path) -> None:
    model = parser.parse_model(
        f"{HEAD} g (float[n,2,h,w] x) => (seq(float[n,1,h,w]) y)"
        "{ y = SplitToSequence<axis=1>(x) }"
    )
    source = save(model, tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"its output 'y' is a seq\(tensor\(float\)\); only models"):
        prove_graphs(source, source)


def test_a_reference_that_is_not_finite_is_no_ruler(tmp_path: Path) -> None:
    log = save(graph("t = Conv(x, swap)  y = Log(t)"), tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"its 'y' holds NaN or infinity.*noise does not suit"):
        prove_graphs(log, log)
    positive = {"x": np.ones((1, 2, 3, 3))}
    assert prove_graphs(log, log, positive).passed
    with pytest.raises(UserError, match="holds NaN or infinity on these inputs; give inputs in"):
        prove_graphs(log, log, {"x": -positive["x"]})
    inner = save(graph("t = Log(x)  y = Neg(x)"), tmp_path / "b.onnx")
    with pytest.raises(UserError, match="its 't' holds NaN or infinity"):
        prove_graphs(inner, inner, regions=["t"])
