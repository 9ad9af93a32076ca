"""evaluate: statistics by hand, counts by hand, and the command on real networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from repvgg_deploy.data.demo import demo_checkpoint
from repvgg_deploy.data.preprocessing import PRESETS
from repvgg_deploy.evaluation.intervals import paired_difference, share
from repvgg_deploy.evaluation.tally import Tally, first_answers, most_confused
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.files import sha256_file
from repvgg_deploy.models.build import build
from repvgg_deploy.runners.onnx_session import OrtSession
from repvgg_deploy.sqnr import LOWEST

from .conftest import Cli
from .helpers import tiny_spec, training_state
from .qdq import quantized

DEMO_DATA = Path(__file__).parent.parent / "repvgg_deploy" / "demo" / "demo_images.npz"


# Statistics


def test_wilsons_interval_of_known_cases() -> None:
    """81 of 263: Newcombe (1998), Statistics in Medicine 17:857, table I, method 3; 0 of 20 and
    1 of 29 too."""
    for hits, samples, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = share(hits, samples)
        assert found.value == hits / samples
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert share(20, 20).high == 1.0


def test_the_paired_interval_by_hand() -> None:
    """10 lost, 4 gained of 98: n + 2 = 100, centre -0.06, variance (15 - 36 / 100) / 100^2."""
    found = paired_difference(10, 4, 98)
    assert found.value == -6 / 98
    half = 1.959964 * (14.64**0.5) / 100
    assert (found.low, found.high) == pytest.approx((-0.06 - half, -0.06 + half), abs=1e-7)
    same = paired_difference(0, 0, 98)  # no difference seen is not none at all
    assert (same.value, same.low, same.high) == pytest.approx((0, -0.0196, 0.0196), abs=1e-4)


def one_hot(answers: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[answers]


def test_counts_by_hand() -> None:
    """Four images of three classes; the reference has three right, the candidate two."""
    labels = np.array([0, 1, 2, 2])
    reference = one_hot([0, 1, 2, 0], 3)
    candidate = one_hot([0, 2, 0, 2], 3)
    tally = Tally(3, labelled=True, with_confusion=True)
    tally.add(candidate[:3], reference[:3], labels[:3])
    tally.add(candidate[3:], reference[3:], labels[3:])
    scores = tally.scores()
    assert scores.samples == 4
    assert scores.top1 is not None
    assert scores.top1.value == 2 / 4
    assert scores.top5 is None
    assert scores.agreement.value == 1 / 4
    assert (tally.lost, tally.gained) == (2, 1)
    assert scores.confusion == [[1, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert most_confused(scores.confusion, 9) == [(1, 2, 1), (2, 0, 1)]
    assert scores.sqnr_db == pytest.approx(10 * np.log10(4 / 6))


def test_top5_counts_equal_logits_in_the_order_of_classes() -> None:
    logits = np.array([[0.0, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    tally = Tally(6, labelled=True, with_confusion=False)
    tally.add(logits, logits, np.array([0, 4, 5]))
    scores = tally.scores()
    assert scores.top5 is not None
    assert scores.top5.value == pytest.approx(1 / 3)
    assert scores.sqnr_db == float("inf")
    assert scores.confusion is None


def test_what_is_not_finite_is_wrong_and_agrees_with_nothing() -> None:
    logits = np.array([[np.nan, 1, 0], [0, np.inf, 0], [0, 0, 1]])
    assert first_answers(logits).tolist() == [-1, -1, 2]
    tally = Tally(3, labelled=True, with_confusion=True)
    tally.add(logits, logits, np.array([1, 1, 2]))
    scores = tally.scores()
    assert scores.not_finite == 2
    assert scores.top1 is not None
    assert scores.top1.value == scores.agreement.value == pytest.approx(1 / 3)
    assert scores.confusion == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


# The command


@pytest.fixture
def pipeline(cli: Cli, checkpoint: Path) -> Cli:
    """A fused model with its ONNX model, and 50 labelled images that it takes."""
    assert cli("fuse", checkpoint).code == 0
    assert cli("export", "--onnx", "--size", "32").code == 0
    rng = np.random.default_rng(0)
    np.savez(
        "data.npz", x=rng.normal(size=(50, 3, 32, 32)).astype(np.float32), y=rng.integers(0, 5, 50)
    )
    return cli


def network_of(result: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (network for network in result["networks"] if network["name"] == name)
    scores: dict[str, Any] = found["scores"]
    return scores


def test_the_demo_keeps_its_accuracy(cli: Cli) -> None:
    """93.36 % of the bundled images, as train.log has it, for each form of the network."""
    assert cli("fuse", demo_checkpoint(), "--name", "demo", "--no-verify").code == 0
    assert cli("export", "--onnx", "--size", "56").code == 0
    found = cli("evaluate", "--data", DEMO_DATA, "--preprocess", "fashion-mnist", "--json")
    assert found.code == 0, found.err
    result = json.loads(found.out)
    assert [network["name"] for network in result["networks"]] == [
        "demo.pth (unfused)", "fused.safetensors", "fp32.onnx",
    ]  # fmt: skip
    assert result["reference"] == "demo.pth (unfused)"
    assert result["samples"] == 512
    for network in result["networks"]:
        scores = network["scores"]
        assert scores["top1"]["value"] == 478 / 512
        assert scores["agreement"]["value"] == 1
        assert scores["difference"]["value"] == 0
        assert scores["top5"]["value"] > 0.99
        assert scores["sqnr_db"] is None or scores["sqnr_db"] > 100
    assert found.err.count("93.36 [90.86, 95.21]") == 3
    assert "512 images, resized to 56x56 (nearest), grey" in found.err
    part = cli(
        "evaluate", "engines/demo/fused.safetensors", "--data", DEMO_DATA, "--preprocess",
        "fashion-mnist", "--samples", "100", "--confusion", "--json",
    )  # fmt: skip
    assert json.loads(Path("engines/demo/evaluation.json").read_text()) == result  # as before
    (network,) = json.loads(part.out)["networks"]
    confusion = np.array(network["scores"]["confusion"])
    assert confusion.sum(1).tolist() == [10] * 10  # spread over the classes
    assert confusion.trace() / 100 == network["scores"]["top1"]["value"]
    assert "taken for" in part.err


def test_batches_are_filled_up_and_no_image_is_dropped(pipeline: Cli) -> None:
    """A model of batch 32 or 7 gives on 50 images what the dynamic one gives."""
    state = training_state()
    for batch in (7, 48):
        model = to_onnx(build(state, tiny_spec(), "train"), (32, 32), batch=batch)
        onnx.save(model, f"b{batch}.onnx")
    result = pipeline(
        "evaluate", "ckpt.pth", "b7.onnx", "b48.onnx", "--data", "data.npz", "--confusion", "--json"
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    for name in ("b7.onnx", "b48.onnx"):
        scores = network_of(found, name)
        assert scores["samples"] == 50
        assert scores["confusion"] == network_of(found, "ckpt.pth")["confusion"]
        assert sum(map(sum, scores["confusion"])) == 50


def test_a_quantized_model_runs_as_its_nodes_say(pipeline: Cli) -> None:
    """The answers are those of ONNX Runtime with its optimizer off, to the last image."""
    onnx.save(quantized(onnx.load("engines/ckpt/fp32.onnx"), "int8", "fp32"), "int8.onnx")
    with np.load("data.npz") as content:
        x, y = content["x"], content["y"]
    session = OrtSession(Path("int8.onnx"))
    (plain,) = session.run({session.inputs[0][0]: x}).values()
    found = json.loads(
        pipeline(
            "evaluate", "ckpt.pth", "int8.onnx", "--data", "data.npz", "--confusion", "--json"
        ).out
    )
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (y, plain.argmax(1)), 1)
    assert network_of(found, "int8.onnx")["confusion"] == expected.tolist()
    assert found["networks"][1]["runtime"] == "onnxruntime (cpu), not optimized"
    with torch.inference_mode():
        truth = build(training_state(), tiny_spec(), "train")(torch.from_numpy(x)).double().numpy()
    sqnr = 10 * np.log10((truth**2).sum() / ((plain - truth) ** 2).sum())
    assert network_of(found, "int8.onnx")["sqnr_db"] == pytest.approx(sqnr, abs=1e-3)


def test_without_labels_agreement_alone(pipeline: Cli) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=(5, 3, 32, 32)))
    result = pipeline("evaluate", "--data", "x.npy", "--json")
    assert result.code == 0, result.err
    assert "no labels are known" in result.err
    assert "top-1 %" not in result.err
    scores = network_of(json.loads(result.out), "fp32.onnx")
    assert scores["top1"] is scores["difference"] is None
    assert scores["agreement"]["value"] == 1
    refused = pipeline("evaluate", "--data", "x.npy", "--confusion")
    assert refused.code == 1
    assert "give --labels" in refused.err
    Path("y.txt").write_text("0\n1\n2\n3\n4\n")
    given = pipeline("evaluate", "--data", "x.npy", "--labels", "y.txt", "--json")
    assert network_of(json.loads(given.out), "fp32.onnx")["top1"] is not None


def test_what_cannot_run_is_left_out_of_a_folder_and_is_an_error_when_named(pipeline: Cli) -> None:
    folder = Path("engines/ckpt")
    (folder / "fp16.rtx.engine").write_bytes(b"no engine")
    np.savez("small.npz", x=np.random.default_rng(0).normal(size=(5, 3, 16, 16)), y=[0] * 5)
    result = pipeline("evaluate", "--data", "small.npz", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [n["name"] for n in found["networks"]] == ["ckpt.pth (unfused)", "fused.safetensors"]
    assert set(found["left_out"]) == {"fp32.onnx", "fp16.rtx.engine"}
    assert "takes images of 3 channels, 32x32 pixels" in result.err
    onnx_alone = pipeline("evaluate", folder / "fp32.onnx", "--data", "small.npz")
    assert onnx_alone.code == 1
    assert "are 3 channels, 16x16 pixels" in onnx_alone.err
    engine = (folder / "fp16.rtx.engine", "--data", "data.npz")
    assert pipeline("evaluate", *engine).code == 1
    beside = pipeline("evaluate", "ckpt.pth", *engine)
    assert beside.code == 0, beside.err
    assert "left out: engines/ckpt/fp16.rtx.engine" in beside.err
    Path("ckpt.pth").unlink()
    fused_first = pipeline("evaluate", "--data", "data.npz", "--json")
    assert json.loads(fused_first.out)["reference"] == "fused.safetensors"
    assert "is gone" in fused_first.err


def test_a_file_that_is_not_its_sidecars_is_not_measured(pipeline: Cli) -> None:
    path = Path("engines/ckpt/fp32.onnx")
    onnx.save(to_onnx(build(training_state(seed=1), tiny_spec(), "train"), (32, 32)), path)
    result = pipeline("evaluate", path, "--data", "data.npz")
    assert result.code == 1
    assert "is not the file that fp32.onnx.json describes" in result.err


def record(path: Path, preset: str) -> None:
    """The sidecar of an int8 model, as far as evaluate reads it."""
    calibration = {"preprocessing": PRESETS[preset].to_dict()}
    sidecar = {"sha256": sha256_file(path), "calibration": calibration}
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))


def test_the_recorded_preprocessing_is_the_default_and_another_is_refused(pipeline: Cli) -> None:
    folder = Path("engines/ckpt")
    int8 = folder / "int8.onnx"
    onnx.save(quantized(onnx.load(folder / "fp32.onnx"), "int8", "fp32"), int8)
    record(int8, "fashion-mnist-32")
    rng = np.random.default_rng(0)
    np.savez("bytes.npz", x=rng.integers(0, 256, (9, 28, 28), dtype=np.uint8), y=[0] * 9)
    found = pipeline("evaluate", "--data", "bytes.npz", "--json")
    assert found.code == 0, found.err
    result = json.loads(found.out)
    assert result["preprocessing"] == PRESETS["fashion-mnist-32"].to_dict()
    assert [network["name"] for network in result["networks"]][-1] == "int8.onnx"
    changed = ("evaluate", int8, "--data", "bytes.npz", "--mean", "0.5")
    refused = pipeline(*changed)
    assert refused.code == 1
    assert "mean 0.286 0.286 0.286, not 0.5 0.5 0.5" in refused.err
    assert pipeline(*changed, "--allow-other-preprocessing").code == 0
    assert pipeline("evaluate", int8, "--data", "data.npz", "--preprocess", "none").code == 1
    onnx_alone = ("evaluate", folder / "fp32.onnx", "--data", "bytes.npz")
    assert "--preprocess" in pipeline(*onnx_alone).err  # nothing is recorded, nothing is guessed
    explicit = ("--mean", "0.5", "--std", "0.25", "--crop", "32")
    assert pipeline(*onnx_alone, *explicit).code == 0


def test_classes_and_labels_that_do_not_fit(pipeline: Cli) -> None:
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.normal(size=(2, 3, 32, 32)), y=[0, 5])
    result = pipeline("evaluate", "--data", "x.npz")
    assert result.code == 1
    assert "holds the label 5" in result.err
    assert "classes 0 to 4" in result.err
    torch.save(training_state(tiny_spec(num_classes=7)), "seven.pth")
    result = pipeline("evaluate", "ckpt.pth", "seven.pth", "--data", "data.npz")
    assert "seven.pth: has 7 classes and ckpt.pth 5" in result.err
    for name in ("cat", "dog"):
        Path("pictures", name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("pictures", name, "1.png"))
    pictures = ("--data", "pictures", "--mean", "0.5", "--std", "0.5")
    result = pipeline("evaluate", "ckpt.pth", *pictures)
    assert "has 2 named classes, and ckpt.pth has 5" in result.err
    Path("y.txt").write_text("3\n4\n")
    assert pipeline("evaluate", "ckpt.pth", *pictures, "--labels", "y.txt").code == 0
    np.savez("grey.npz", x=rng.normal(size=(2, 1, 32, 32)), y=[0, 1])
    result = pipeline("evaluate", "ckpt.pth", "--data", "grey.npz")
    assert result.code == 1
    assert "takes images of 3 channels, any size" in result.err


def test_logits_that_are_not_finite_are_counted(pipeline: Cli) -> None:
    state = training_state()
    state["linear.bias"] = torch.full((5,), torch.finfo(torch.float32).max)
    state["linear.weight"] = torch.full_like(state["linear.weight"], 1e38)
    onnx.save(to_onnx(build(state, tiny_spec(), "train"), (32, 32)), "inf.onnx")
    result = pipeline("evaluate", "ckpt.pth", "inf.onnx", "--data", "data.npz", "--json")
    assert result.code == 3, result.err
    scores = network_of(json.loads(result.out), "inf.onnx")
    assert scores["not_finite"] > 0
    assert scores["sqnr_db"] == LOWEST, "null means equal logits"
    assert f"inf.onnx: gave NaN or infinity for {scores['not_finite']} image" in result.err


def test_a_model_that_does_not_classify(cli: Cli) -> None:
    def save(name: str, shape: list[object]) -> None:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [value("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [value("y", TensorProto.FLOAT, shape)],
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), name)

    save("relu.onnx", ["n", 3, 8, 8])
    np.save("x.npy", np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
    result = cli("evaluate", "relu.onnx", "--data", "x.npy")
    assert result.code == 1
    assert "only classification networks" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        ((), 2, "Missing option '--data'"),
        (("--data", "nowhere"), 1, "nowhere: no such file or folder"),
        (("--data", "data.npz", "--eps", "0.1"), 2, "--eps has no effect"),
        (("ckpt.pth", "--data", "data.npz", "--model", "x"), 2, "--model has no effect"),
        (("none.pth", "--data", "data.npz"), 1, "none.pth"),
        (("--data", "data.npz", "--preprocess", "imagenet"), 1, "give --preprocess none"),
        (("--data", "data.npz", "--preprocess", "none", "--crop", "9"), 1, "nothing else can be"),
        (("--data", "data.npz", "--mean", "0.5"), 1, "--mean and --std: give both"),
        (("--data", "x", "--preprocess", "imagenet", "--channels", "1"), 1, "for each channel"),
        (("--data", "x", "--preprocess", "fashion-mnist-32", "--interpolation", "box"), 1,
         "nothing is resized"),
        (("--data", "x", "--mean", "a,b,c"), 2, "is not one number or three"),
        (("--data", "x", "--mean", "nan"), 2, "is not one number or three"),
        (("--data", "x", "--std", "0", "--mean", "0"), 1, "not above 0"),
        (("--data", "x", "--resize", "0"), 2, "is no image size"),
        (("--data", "data.npz", "--split", "test"), 1, "leave out --split"),
        (("--data", "data.npz", "--samples", "0"), 2, "--samples"),
    ],
)  # fmt: skip
def test_usage(pipeline: Cli, arguments: tuple[str, ...], code: int, what: str) -> None:
    result = pipeline("evaluate", *arguments)
    assert (result.code, result.out) == (code, "")
    assert what in result.err
    assert "Traceback" not in result.err


def test_settings_change_single_steps_of_a_preset(cli: Cli) -> None:
    shutil.copy(demo_checkpoint(), "demo.pth")
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.integers(0, 256, (3, 40, 50, 3), dtype=np.uint8), y=[0, 1, 2])
    result = cli(
        "evaluate", "demo.pth", "--data", "x.npz", "--preprocess", "imagenet", "--resize", "none",
        "--crop", "28x30", "--channels", "1", "--mean", "0.5", "--std", "0.25", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert json.loads(result.out)["preprocessing"] == {
        "resize": None, "crop": [28, 30], "interpolation": "bilinear", "channels": 1,
        "mean": [0.5], "std": [0.25],
    }  # fmt: skip


def test_another_network_is_told_by_the_pair(cli: Cli) -> None:
    torch.save(training_state(), "a.pth")
    torch.save(training_state(seed=5), "b.pth")
    rng = np.random.default_rng(1)
    np.savez("x.npz", x=rng.normal(size=(60, 3, 32, 32)), y=rng.integers(0, 5, 60))
    found = json.loads(cli("evaluate", "a.pth", "b.pth", "--data", "x.npz", "--json").out)
    a, b = (network_of(found, name) for name in ("a.pth", "b.pth"))
    difference = b["difference"]
    assert difference["value"] == pytest.approx(b["top1"]["value"] - a["top1"]["value"])
    assert difference["low"] < difference["value"] < difference["high"]
    assert b["agreement"]["value"] < 0.9
