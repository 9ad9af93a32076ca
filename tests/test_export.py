"""repvgg-deploy export: ONNX models that hold nothing but a plain network, and engines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from repvgg_deploy.engine import flavour
from repvgg_deploy.errors import CheckFailed
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.export.half import FP16_MAX, check_half_range
from repvgg_deploy.export.simplify import operators, simplify
from repvgg_deploy.models.baseline import fold_conv_bn
from repvgg_deploy.models.build import build, skeleton
from repvgg_deploy.models.zoo import ZOO
from repvgg_deploy.steps import export as export_step
from repvgg_deploy.steps.image_size import default_image_size

from .conftest import Cli
from .helpers import TRAIN_NAMES, golden, golden_arrays, tiny_spec, training_state


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


@pytest.mark.parametrize("name", TRAIN_NAMES)
def test_golden_networks(cli: Cli, name: str) -> None:
    """Only the operators of a plain network; the official network's output at any batch."""
    arrays = golden_arrays(name)
    height, width = arrays["x"].shape[2:]
    cli("fuse", golden(name))
    result = cli("export", "--onnx", "--size", f"{height}x{width}", "--json")
    assert result.code == 0, result.err
    path = Path(f"engines/{name}/fp32.onnx")
    model = onnx.load(path)
    blocks = sum(node.op_type == "Conv" and "rbr_reparam" in node.name for node in model.graph.node)
    counts = Counter(node.op_type for node in model.graph.node)
    se = counts["Sigmoid"]
    expected = {
        "Conv": blocks + 2 * se,
        "Relu": blocks + se,
        "GlobalAveragePool": 1 + se,
        "Flatten": 1,
        "Gemm": 1,
    }
    if se:
        assert se == blocks
        expected |= {"Sigmoid": se, "Mul": se}
    assert counts == expected
    for batch in (1, 2, 5):
        x = np.resize(arrays["x"], (batch, *arrays["x"].shape[1:]))
        truth = np.resize(arrays["y64"], (batch, arrays["y64"].shape[1]))
        assert np.abs(run_onnx(path, x) - truth).max() <= 1e-5 * np.abs(truth).max()
    (record,) = json.loads(result.out)
    assert record["operators"] == dict(counts)
    assert record["opset"] == 17
    assert record["input_shape"] == [0, 3, height, width]
    assert [check["name"] for check in record["proof"]["checks"]] == [
        "batch 1",
        "batch 2",
        "batch 3",
    ]


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("se_ratio", [0, 4])
def test_opsets(opset: int, se_ratio: int) -> None:
    spec = tiny_spec(se_ratio=se_ratio)
    state = skeleton(spec, "deploy").state_dict()
    weights = {k: torch.randn(v.shape) for k, v in state.items()}
    model = simplify(to_onnx(build(weights, spec, "deploy"), (32, 32), opset=opset), bool(se_ratio))
    assert model.opset_import[0].version == opset


def test_the_unfused_forms_compute_the_same() -> None:
    """What bench measures as a baseline, batch norm kept or folded, is the same network."""
    spec = tiny_spec(se_ratio=4)
    network = build(training_state(spec), spec, "train")
    x = torch.randn(2, 3, 32, 32)
    for form, norms in ((network, 13), (fold_conv_bn(network), 1)):
        model = to_onnx(form, (32, 32))
        onnx.checker.check_model(model, full_check=True)
        assert operators(model).get("BatchNormalization", 0) == norms
        session = onnxruntime.InferenceSession(model.SerializeToString())
        output = session.run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(output, network(x).numpy(), rtol=1e-3, atol=1e-2)


def test_batch_and_size_are_fixed_as_asked(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    assert cli("export", "--onnx", "--batch", "4", "--size", "48x32").code == 0
    graph = onnx.load("engines/ckpt/fp32.onnx").graph
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert shape == [4, 3, 48, 32]
    assert (graph.input[0].name, graph.output[0].name) == ("input", "logits")


def test_half_precision_is_half_throughout(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    result = cli("export", "--onnx", "--fp16", "--size", "32")
    assert result.code == 0, result.err
    model = onnx.load("engines/ckpt/fp16.onnx")
    assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert not Path("engines/ckpt/fp32.onnx").exists()


@pytest.mark.parametrize(
    ("key", "where"), [("weight", "the tensor"), ("activation", "the output of")]
)
def test_what_float16_cannot_hold_is_refused(key: str, where: str) -> None:
    spec = tiny_spec()
    fill = torch.zeros if key == "weight" else torch.ones
    state = {k: fill(v.shape) for k, v in skeleton(spec, "deploy").state_dict().items()}
    if key == "weight":
        state["stage1.0.rbr_reparam.weight"][0] = 2 * FP16_MAX
    network = build(state, spec, "deploy")
    with pytest.raises(CheckFailed, match=where):
        check_half_range(network, np.ones((1, 3, 32, 32), np.float32))


def test_an_unfaithful_model_is_not_written(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("fuse", checkpoint)

    def wrong(network: torch.nn.Module, *args: object, **kwargs: object) -> onnx.ModelProto:
        model = to_onnx(network, *args, **kwargs)  # type: ignore[arg-type]
        bias = next(t for t in model.graph.initializer if t.name == "linear.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
        return model

    monkeypatch.setattr(export_step, "to_onnx", wrong)
    result = cli("export", "--onnx", "--size", "32")
    assert result.code == 3
    assert "at batch 1" in result.err
    assert not list(Path("engines/ckpt").glob("*.onnx*"))


def test_a_foreign_operator_is_refused() -> None:
    spec = tiny_spec(se_ratio=4)
    state = {k: torch.ones(v.shape) for k, v in skeleton(spec, "deploy").state_dict().items()}
    with pytest.raises(CheckFailed, match=r"\['Mul', 'Sigmoid'\]"):
        simplify(to_onnx(build(state, spec, "deploy"), (32, 32)), has_se=False)


def test_default_image_sizes(tmp_path: Path) -> None:
    """Of checkpoints that no train.json says anything about."""
    path = tmp_path / "fused.safetensors"
    assert default_image_size(path, ZOO["RepVGG-A0"].spec(10)) == (224, 224)
    assert default_image_size(path, ZOO["RepVGG-D2se"].spec()) == (320, 320)
    assert default_image_size(path, tiny_spec()) == (224, 224)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["export"], 2, "nothing to export"),
        (["export", "--fp16", "--trt", "fp16"], 2, "--fp16 is the precision of --onnx"),
        (["export", "--onnx", "--size", "0"], 2, "is no image size"),
        (["export", "--onnx", "--size", "axb"], 2, "is no image size"),
        (["export", "--onnx", "--opset", "12"], 2, "12 is not in the range"),
        (["export", "--onnx", "--opset", "99"], 1, "the installed onnx knows opsets up to"),
        (["export", "--trt", "fp16", "--profile", "8,4,1"], 2, "ascending"),
        (["export", "--trt", "fp16", "--profile", "1,2"], 2, "three batch sizes"),
        (["export", "--trt", "fp16", "--target", "sm86,"], 2, "no list of targets"),
        (["export", "--onnx", "--target", "sm86"], 2, "it is for the engine of --trt"),
        (["export", "--onnx", "--profile", "1,2,4"], 2, "it is for the engine of --trt"),
        (
            ["export", "--trt", "fp16", "--batch", "2", "--profile", "1,2,4"],
            2,
            "--profile has no effect here: --batch fixes",
        ),
        (["export", "--onnx", "--size", "99999"], 2, "is no image size"),
        (["export", "--onnx", "--batch", "99999999999"], 2, "is not in the range"),
        (["bench", "--batch", "999999"], 2, "no list of batch sizes"),
        (["bench", "--threads", "99999"], 2, "is not in the range"),
        (["bench", "--duration", "nan"], 2, "is no time"),
        (["bench", "--duration", "inf"], 2, "is no time"),
        (["bench", "--duration", "-1"], 2, "is no time"),
        (["bench", "--duration", "long"], 2, "is no time"),
        (["export", "--trt", "int7"], 2, "'int7' is not one of"),
        (["export", "--onnx", "--model", "other"], 1, "nothing is fused under that name"),
        (["bench", "--batch", "0"], 2, "no list of batch sizes"),
    ],
)
def test_wrong_usage(
    cli: Cli, checkpoint: Path, arguments: list[str], code: int, sentence: str
) -> None:
    cli("fuse", checkpoint)
    result = cli(*arguments)
    assert result.code == code, result.err
    assert sentence in result.err
    assert not list(Path("engines/ckpt").glob("*.onnx"))


@pytest.mark.parametrize("command", [["export", "--onnx"], ["bench"], ["verify"]])
def test_nothing_fused_yet(cli: Cli, command: list[str]) -> None:
    result = cli(*command)
    assert result.code == 1
    assert "no checkpoint is fused here yet; run repvgg-deploy fuse CHECKPOINT first" in result.err
    assert not Path("engines").exists()


def test_without_any_tensorrt_the_onnx_stays(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flavour, "available", lambda module: None)
    cli("fuse", checkpoint)
    result = cli("export", "--onnx", "--trt", "fp16", "--size", "32")
    assert result.code == 1
    assert 'pip install "repvgg-deploy[rtx]"' in result.err.splitlines()[-1]
    assert (
        weights_of("fp32") == weights_of("fp16") == set(load_file("engines/ckpt/fused.safetensors"))
    )


def weights_of(precision: str) -> set[str]:
    return {t.name for t in onnx.load(f"engines/ckpt/{precision}.onnx").graph.initializer}


def test_without_onnxruntime_it_says_which_extra(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repvgg_deploy.optional.available", lambda module: None)
    cli("fuse", checkpoint)
    result = cli("export", "--onnx", "--size", "32")
    assert result.code == 1
    assert 'pip install "repvgg-deploy[cpu]"' in result.err
