"""repvgg-deploy verify: any pair of checkpoint, fused network and ONNX model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.build import build
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fuse_in_place

from .conftest import Cli
from .helpers import GOLDEN, golden, tiny_spec, training_state

FUSED = Path("engines/ckpt/fused.safetensors")
ONNX = Path("engines/ckpt/fp32.onnx")
HALF = Path("engines/ckpt/fp16.onnx")


@pytest.fixture
def pipeline(cli: Cli, checkpoint: Path) -> Cli:
    """A fused model with ONNX models of both precisions."""
    assert cli("fuse", checkpoint).code == 0
    assert cli("export", "--onnx", "--size", "32").code == 0
    assert cli("export", "--onnx", "--fp16", "--size", "32").code == 0
    return cli


@pytest.mark.parametrize(
    "pair",
    [("ckpt.pth", FUSED), (FUSED, "ckpt.pth"), ("ckpt.pth", ONNX), (ONNX, FUSED), (FUSED, HALF),
     ("ckpt.pth", HALF), (ONNX, HALF), ("ckpt.pth", "ckpt.pth"), (FUSED, FUSED), (ONNX, ONNX)],
)  # fmt: skip
def test_every_pair_passes(pipeline: Cli, pair: tuple[object, object]) -> None:
    result = pipeline("verify", *pair, "--json")
    assert result.code == 0, result.err
    (verdict,) = json.loads(result.out)
    assert verdict["passed"] is True
    assert verdict["end_to_end"]["samples"] == 8
    assert verdict["end_to_end"]["ratio"] <= verdict["end_to_end"]["limit"] == 8
    assert verdict["end_to_end"]["top1_agreement"] == 1.0


def faulty_weights(fault: str) -> dict[str, torch.Tensor]:
    """The tiny network fused wrongly."""
    state = training_state()
    eps = 1e-3 if fault == "wrong eps" else 1e-5
    if fault == "identity dropped":
        for leaf in ("weight", "bias"):
            state[f"stage3.1.rbr_identity.{leaf}"] = torch.zeros(8)
    fuse_in_place(state, find_blocks(state).blocks, eps)
    if fault == "kernel shifted":
        state["stage2.0.rbr_reparam.weight"] = state["stage2.0.rbr_reparam.weight"].roll(1, 2)
    return state


@pytest.mark.parametrize("fault", ["identity dropped", "wrong eps", "kernel shifted"])
def test_wrong_fusions_are_caught(pipeline: Cli, fault: str) -> None:
    state = {k: v.contiguous() for k, v in faulty_weights(fault).items()}
    save_file(state, "wrong.safetensors")
    onnx.save(to_onnx(build(state, tiny_spec(), "deploy"), (32, 32)), "wrong.onnx")
    for right, wrong in (
        ("ckpt.pth", "wrong.safetensors"),
        ("ckpt.pth", "wrong.onnx"),
        (FUSED, "wrong.onnx"),
        (ONNX, "wrong.onnx"),
    ):
        result = pipeline("verify", right, wrong, "--json")
        assert result.code == 3, (right, wrong)
        assert "is not the network of" in result.err
        assert json.loads(result.out)[0]["passed"] is False


def test_a_fixed_batch(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    assert cli("export", "--onnx", "--size", "32", "--batch", "3").code == 0
    assert cli("verify", FUSED, ONNX).code == 0
    np.savez("seven.npz", x=np.random.default_rng(0).random((7, 3, 32, 32)))
    result = cli("verify", FUSED, ONNX, "--images", "seven.npz", "--json")
    assert json.loads(result.out)[0]["end_to_end"]["samples"] == 6
    np.savez("two.npz", x=np.random.default_rng(0).normal(size=(2, 3, 32, 32)))
    assert "takes 3 images at once" in cli("verify", FUSED, ONNX, "--images", "two.npz").err


def spoil(name: str, change: Callable[[onnx.GraphProto], object]) -> None:
    """A copy of the exported model with one fault."""
    model = onnx.load(ONNX)
    change(model.graph)
    onnx.save(model, f"{name}.onnx")


def output_the_feature_map(graph: onnx.GraphProto) -> None:
    last = next(node for node in reversed(graph.node) if node.op_type == "Relu").output[0]
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(last, 1, ["n", "c", "h", "w"]))


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["ckpt.pth"], 2, "give two files, or one model's folder"),
        (["ckpt.pth", "gone.onnx"], 1, "gone.onnx: no such file"),
        (["ckpt.pth", "text.onnx"], 1, "text.onnx: is a text file"),
        (["ckpt.pth", "gone.pth"], 1, "gone.pth: no such file"),
        (["ckpt.pth", golden("official_plain")], 1, "another architecture"),
        (
            ["ckpt.pth", "seven.onnx"],
            3,
            "Error: seven.onnx: end to end: outputs of different shapes",
        ),
        (["ckpt.pth", "two-inputs.onnx"], 1, "one float image input"),
        (["ckpt.pth", "two-outputs.onnx"], 1, "and one output"),
        (["ckpt.pth", "negative.onnx"], 1, "one float image input"),
        (["ckpt.pth", "gray.onnx"], 1, "takes images of 1 channels"),
        (["ckpt.pth", "map.onnx"], 1, "Error: map.onnx: onnxruntime (cpu): the output has"),
        ([ONNX, "seven.onnx"], 1, "seven.onnx: its 'logits' has another shape than that of"),
        ([ONNX, "map.onnx"], 1, "has other outputs than"),
        ([ONNX, "unknown.onnx"], 1, "ONNX Runtime cannot load it"),
        (["unknown.onnx", ONNX], 1, "ONNX Runtime cannot load it"),
        ([ONNX, FUSED, "--images", "small.npz"], 1, "takes images of 32x32 pixels"),
    ],
)
def test_pairs_that_cannot_be_compared(
    pipeline: Cli, arguments: list[object], code: int, sentence: str
) -> None:
    Path("text.onnx").write_text("this is no model")
    np.savez("small.npz", x=np.random.default_rng(0).normal(size=(1, 3, 16, 16)))
    spec = tiny_spec(num_classes=7)
    seven = training_state(spec)
    onnx.save(to_onnx(build(seven, spec, "train"), (32, 32)), "seven.onnx")
    spoil("two-inputs", lambda g: g.input.append(onnx.helper.make_tensor_value_info("m", 1, [1])))
    spoil("two-outputs", lambda g: g.output.append(onnx.helper.make_tensor_value_info("m", 1, [1])))
    spoil("negative", lambda g: setattr(g.input[0].type.tensor_type.shape.dim[2], "dim_value", -1))
    spoil("unknown", lambda g: setattr(g.node[0], "domain", "nobody"))
    spoil("map", output_the_feature_map)
    gray = tiny_spec(in_channels=1)
    onnx.save(to_onnx(build(training_state(gray), gray, "train"), (32, 32)), "gray.onnx")
    result = pipeline("verify", *arguments)
    assert result.code == code
    assert sentence in result.err
    assert "Traceback" not in result.err


def test_cuda_where_there_is_none(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = cli("fuse", checkpoint, "--device", "cuda")
    assert result.code == 1
    assert "torch sees no CUDA device" in result.err


def test_two_onnx_graphs_of_any_inputs_and_outputs(cli: Cli) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,3] x, float[n,3] z) => (float[n,3] y, bool[n,3] p) <float c = {2}>
        { s = Add(x, z)  y = Mul(s, c)  p = Greater(x, z) }"""
    one, other = onnx.parser.parse_model(text), onnx.parser.parse_model(text)
    other.graph.node[2].op_type = "Less"
    onnx.save(one, "one.onnx")
    onnx.save(other, "other.onnx")
    result = cli("verify", "one.onnx", "one.onnx", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["graphs"]["discrete"][0]["candidate"] == 0
    result = cli("verify", "one.onnx", "other.onnx")
    assert result.code == 3
    assert "p: 24 of 24 values differ from the float64 truth" in result.err


def test_two_onnx_graphs_without_a_float_output(cli: Cli) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (bool[n] y)
        <float c = {0}> { y = Less(x, c) }"""
    onnx.save(onnx.parser.parse_model(text), "one.onnx")
    result = cli("verify", "one.onnx", "one.onnx", "--json")
    assert result.code == 0, result.err
    assert "no output is a float" in result.err
    assert json.loads(result.out)[0]["end_to_end"] is None


def test_two_onnx_models_on_images(pipeline: Cli) -> None:
    np.savez("few.npz", x=np.random.default_rng(0).random((3, 3, 32, 32)))
    result = pipeline("verify", ONNX, HALF, "--images", "few.npz", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["end_to_end"]["samples"] == 3


def test_two_onnx_models_one_in_bf16(pipeline: Cli) -> None:
    pytest.importorskip("tensorrt_rtx", reason="export writes bf16.onnx for an engine")
    assert pipeline("export", "--trt", "bf16", "--size", "32").code == 0
    result = pipeline("verify", ONNX, ONNX.with_name("bf16.onnx"))
    assert result.code == 1
    assert "bf16.onnx: is a bf16 model" in result.err
    assert pipeline("verify", FUSED, ONNX.with_name("bf16.onnx")).code == 0


def test_images_that_no_proof_of_blocks_would_read_are_refused(cli: Cli) -> None:
    source = GOLDEN / "families/yolov7_repconv.pth"
    assert cli("fuse", source).code == 0
    for files in ((), (source, "engines/yolov7_repconv/fused.safetensors")):
        result = cli("verify", *files, "--images", "gone.npz")
        assert result.code == 1
        assert "blocks are proved on noise of their own; leave out --images" in result.err


def test_the_moving_average_is_that_of_the_training_checkpoint(cli: Cli) -> None:
    torch.save({"model": training_state(seed=1), "model_ema": training_state()}, "train.pth")
    fused = "engines/train/fused.safetensors"
    assert cli("fuse", "train.pth", "--ema").code == 0
    assert cli("export", "--onnx", "--size", "32").code == 0
    for files in ((), ("train.pth", fused), (fused, "train.pth")):
        result = cli("verify", *files, *(["--ema"] if files else []))
        assert result.code == 0, result.err
    assert cli("verify", "train.pth", fused, "--no-ema").code == 3
    refused = cli("verify", fused, fused, "--ema")
    assert refused.code == 1
    assert "holds no moving average, and neither does" in refused.err


def test_options_without_effect_are_refused(pipeline: Cli) -> None:
    read = (["--eps", 0.1], ["--family", "nonsense"], ["--ema"], ["--device", "cpu"])
    for arguments in (
        ["--eps", 1e-3],
        ["ckpt.pth", FUSED, "--model", "ckpt"],
        *([ONNX, HALF, *option] for option in read),
    ):
        result = pipeline("verify", *arguments)
        assert result.code == 2
        assert "has no effect here" in result.err


@pytest.mark.parametrize(
    ("output", "nodes"),
    [
        ("int64[n,k] y", "m = GlobalMaxPool(t) f = Flatten(m) y = ArgMax<axis=1>(f)"),
        ("float[n,4,h,v] y", "y = Relu(t)"),
        ("float[n,4,h,v] y", "s = Neg(t) y = Sigmoid(s)"),
    ],
    ids=["classes", "zeros", "saturated"],
)
def test_outputs_that_tell_no_weights_prove_nothing(cli: Cli, output: str, nodes: str) -> None:
    def model(first: float) -> onnx.ModelProto:
        weights = ", ".join(map(str, [first] * 27 + [0.1] * 81))
        return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
            g (float[n,3,h,v] x) => ({output}) <float[4,3,3,3] w = {{{weights}}},
            float[4] b = {{-400, -500, -500, -500}}> {{ t = Conv(x, w, b) {nodes} }}""")

    onnx.save(model(0.5), "one.onnx")
    onnx.save(model(0.6), "other.onnx")
    result = cli("verify", "one.onnx", "other.onnx")
    assert result.code == 3
    assert "by their outputs" in result.err
    assert cli("verify", "one.onnx", "one.onnx").code == 0


def test_a_node_that_noise_does_not_reach(pipeline: Cli) -> None:
    """ReLU6 and the like: outputs on noise are the same, and other images would differ."""

    def clamp(graph: onnx.GraphProto) -> None:
        relu = next(node for node in graph.node if node.op_type == "Relu")
        readers = [node for node in graph.node if relu.output[0] in node.input]
        for node in readers:
            node.input[list(node.input).index(relu.output[0])] = "clamped"
        most = onnx.numpy_helper.from_array(np.float32(1e6), "most")
        graph.initializer.append(most)
        nodes = list(graph.node)
        place = nodes.index(relu) + 1
        nodes.insert(place, onnx.helper.make_node("Min", [relu.output[0], "most"], ["clamped"]))
        del graph.node[:]
        graph.node.extend(nodes)

    spoil("clamped", clamp)
    for reference in ("ckpt.pth", FUSED):
        result = pipeline("verify", reference, "clamped.onnx")
        assert result.code == 3
        assert "Min" in result.err
