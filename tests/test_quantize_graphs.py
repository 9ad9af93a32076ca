"""quantize of ONNX models that hold what the check of integers has to know: it runs and passes on
each, and a check that cannot run ends the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from .conftest import Cli
from .test_failed_checks import everything, failed

FOLDER = Path("engines/net")
Size = tuple[int | str, int | str]


def weights(name: str, *shape: int) -> TensorProto:
    rng = np.random.default_rng(len(name))
    scale = np.sqrt(2 / np.prod(shape[1:]))
    return numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name)


def constant(name: str, *values: float) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def save(
    between: onnx.NodeProto | None = None,
    constants: tuple[TensorProto, ...] = (),
    size: Size = (20, 20),
    **conv: object,
) -> None:
    """net.onnx: two convolutions, ``between`` them a node that makes u of r, and a linear layer."""
    padding = conv or {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="c1", strides=[2, 2], **padding),
        helper.make_node("Relu", ["a"], ["r"]),
        between or helper.make_node("Sigmoid", ["r"], ["u"]),
        helper.make_node("Conv", ["u", "w2", "b2"], ["d"], name="c2", **padding),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
    ]
    tensors = [
        *(weights("w1", 6, 3, 3, 3), weights("b1", 6), weights("w2", 6, 6, 3, 3)),
        *(weights("b2", 6), weights("w3", 5, 6), weights("b3", 5), *constants),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    images = np.random.default_rng(0).normal(size=(32, 3, 20, 20)).astype(np.float32)
    np.savez("x.npz", x=images)


def resize(*scales: float) -> dict[str, object]:
    """As PyTorch's exporter wrote it for years: its roi, which it does not read, is empty."""
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    node = helper.make_node(
        "Resize", ["r", "roi", "scales"], ["u"], nearest_mode="floor", **attributes
    )
    return {"between": node, "constants": (constant("roi"), constant("scales", 1, 1, *scales))}


CASES: dict[str, dict[str, object]] = {
    "an empty roi": resize(2, 2),
    "scales that fp16 does not hold": resize(1.3, 1.3),
    "an infinite bound": {
        "between": helper.make_node("Clip", ["r", "", "high"], ["u"]),
        "constants": (numpy_helper.from_array(np.float32(np.inf), "high"),),
    },
    "any size": {"size": ("h", "w")},
    "SAME_UPPER": {"auto_pad": "SAME_UPPER"},
    "SAME_LOWER": {"auto_pad": "SAME_LOWER"},
}


@pytest.mark.parametrize("float_type", ["fp16", "fp32"])
@pytest.mark.parametrize("case", CASES)
def test_the_integers_are_checked(cli: Cli, case: str, float_type: str) -> None:
    save(**CASES[case])  # type: ignore[arg-type]
    quantized = ("quantize", "net.onnx", "--calib", "x.npz", "--method", "minmax", "--json")
    result = cli(*quantized, "--float", float_type)
    assert result.code == 0, result.err
    assert "note: the integers" not in result.err
    integers = json.loads(result.out)["proof"]["integers"]
    assert integers["values"] > 1000
    assert integers["largest"] <= 1
    held = safetensors.numpy.load_file(FOLDER / "int8.safetensors")
    assert all(tensor.size for tensor in held.values())
    verified = cli("verify", "--model", "net", "--json")
    assert verified.code == 0, verified.err
    found = {c["kind"]: c["passed"] for c in json.loads(verified.out)["checks"]}
    assert found == dict.fromkeys(("hash", "lineage", "stored proof", "proof"), True)


def test_a_wrong_integer_of_such_a_model(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check does not pass by looking away."""
    save(**CASES["an empty roi"])  # type: ignore[arg-type]
    quantized = ("quantize", "net.onnx", "--calib", "x.npz", "--method", "minmax")
    assert cli(*quantized).code == 0
    model = onnx.load(FOLDER / "int8.onnx")
    scales = next(t for t in model.graph.initializer if t.name == "scales")
    scales.CopyFrom(constant("scales", 1, 1, 3, 3))
    onnx.save(model, FOLDER / "int8.onnx")
    assert "scales" in failed(cli("verify", "net.onnx", FOLDER / "int8.onnx"))


def test_a_check_that_cannot_run_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    save()
    monkeypatch.setattr(
        "repvgg_deploy.steps.write_int8.to_bytes",
        lambda tensors: safetensors.numpy.save({"a": np.zeros(1, np.float32)}),
    )
    result = cli("quantize", "net.onnx", "--calib", "x.npz", "--method", "minmax")
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert "the integers of its int8 model cannot be checked, so nothing was written" in last
    assert ".part" not in last  # no place that is gone
    assert not everything()
