"""quantize as a user runs it: what it writes, what it says, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from repvgg_deploy.cli.quantize_parts import METHODS
from repvgg_deploy.quantize.quantizer import RECIPES
from repvgg_deploy.report.text import count_text
from repvgg_deploy.runners.onnx_session import OrtSession

from .at_work import PATIENCE, stopped_at
from .conftest import Cli, Outcome
from .helpers import GOLDEN

FOLDER = Path("engines/ckpt")
INT8, INTEGERS, SIDECAR = (
    FOLDER / name for name in ("int8.onnx", "int8.safetensors", "int8.onnx.json")
)
NOISE = np.random.default_rng(0).normal(size=(96, 3, 32, 32)).astype(np.float32)
BYTES = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def fused(cli: Cli, checkpoint: Path) -> Cli:
    """A fused model in the workspace, and images beside it."""
    assert cli("fuse", checkpoint).code == 0
    np.savez("x.npz", x=NOISE, y=np.arange(96) % 5)
    np.savez("plain.npz", x=NOISE)
    return cli


def quick(cli: Cli, *arguments: object) -> Outcome:
    return cli("quantize", *arguments, "--method", "quick")


def sidecar(path: Path = SIDECAR) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def everything() -> dict[str, bytes]:
    """Each file of the workspace."""
    return {str(p): p.read_bytes() for p in Path("engines").rglob("*") if p.is_file()}


def is_one_sentence(result: Outcome, code: int = 1) -> str:
    """The error, which is all that is said behind notes."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith(".")
    return last


def test_from_the_checkpoint_to_a_verified_model(fused: Cli) -> None:
    result = fused("quantize", "--calib", "x.npz", "--samples", "48", "--json")
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert lines[0] == (
        "x.npz: 48 images to calibrate with, 48 others to measure on; preprocessed already"
    )
    assert lines[1].startswith("equalized: ")
    assert lines[2].startswith("on 48 images other than those it was calibrated with: SQNR 4")
    assert lines[2].endswith("100.00% of the answers as in float, top-1 +0.00 points")
    assert lines[3].endswith("differ between ONNX Runtime and torch, by 1 step at most")
    assert lines[4].startswith(f"{INT8}  ")
    assert lines[4].endswith("6 of 7 layers in int8, the rest in fp16; thorough")
    assert len(lines) == 5
    record = json.loads(result.out)
    assert record == {k: v for k, v in sidecar().items() if k != "schema"}
    assert record["source"]["path"] == "fused.safetensors"
    assert record["proof"]["held_out"] is True
    assert record["proof"]["integers"]["largest"] <= 1
    assert {path.name for path in FOLDER.iterdir()} == {
        *("fused.safetensors", "fused.safetensors.json"),
        *("int8.onnx", "int8.onnx.json", "int8.safetensors"),
    }
    kinds = Counter(node.op_type for node in onnx.load(INT8).graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"], kinds["Conv"]) == (6, 12, 6)
    verified = fused("verify")
    assert verified.code == 0, verified.err
    assert "8 checks passed, 0 checks not possible here" in verified.err
    assert "not measured again" not in verified.err


def test_the_same_images_and_seed_give_the_same_bytes(fused: Cli) -> None:
    found = []
    for seed in (0, 0, 1):
        arguments = ("--calib", "x.npz", "--samples", "48", "--seed", seed)
        assert fused("quantize", *arguments).code == 0
        found.append((INT8.read_bytes(), INTEGERS.read_bytes()))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_export_quantizes_on_the_way(fused: Cli) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx, which this platform lacks")
    result = fused("export", "--trt", "int8", "--calib", "x.npz", "--json")
    assert result.code == 0, result.err
    assert sidecar()["calibration"]["samples"] == 96
    (engine,) = json.loads(result.out)
    assert engine["source"]["path"] == "int8.onnx"
    counted = Counter(layer["input"] for layer in engine["layers"])
    assert counted["int8"] == 6
    assert fused("verify").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export", "--onnx", "--calib", "x"), "--calib has no effect here: it is for --trt int8"),
        (("export", "--trt", "fp16", "--calib", "x"), "it is for --trt int8"),
        (("export", "net.onnx", "--trt", "int8", "--calib", "x"), "net.onnx is built as it is"),
        (("export", "--trt", "int8", "--mean", "0.5"), "it is for the images of --calib"),
        (("quantize",), "Missing option '--calib'"),
        (("quantize", "--calib", "x", "--name", "a"), "the int8 model of an ONNX file that you"),
        (("quantize", "net.onnx", "--calib", "x", "--model", "a"), "net.onnx is named"),
        (("quantize", "--calib", "x", "--method", "best"), "'best' is not one of"),
        (("quantize", "--calib", "x", "--min-sqnr", "-1"), "--min-sqnr"),
    ],
)
def test_wrong_usage(cli: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert sentence in result.err
    assert not Path("engines").exists()


def arrays(name: str, array: np.ndarray) -> None:
    np.savez(name, x=array)


def with_nan() -> np.ndarray:
    array = NOISE.copy()
    array[50, 0, 3, 3] = np.nan
    return array


@pytest.mark.parametrize(
    ("array", "options", "sentence"),
    [
        (np.full_like(NOISE, 0.5), (), "every image is of one colour"),
        (np.repeat(NOISE[:1], 40, 0), (), "all 40 images are the same"),
        (with_nan(), (), "c.npz: image 50: holds NaN or infinity"),
        (NOISE[:, :1], (), "have 1 channel after preprocessing, and the network takes 3"),
        (NOISE, ("--preprocess", "imagenet"), "holds floats, which count as preprocessed"),
        (NOISE, ("--mean", "0.5", "--std", "0.5"), "holds floats, which count as preprocessed"),
        (BYTES, (), "name it with --preprocess"),
        (BYTES, ("--preprocess", "none"), "holds images as bytes"),
        (BYTES, ("--mean", "0.5"), "--mean and --std: give both"),
        (NOISE, ("--split", "train"), "leave out --split"),
        (NOISE, ("--max-drop", "1"), "has no labels, which --max-drop needs"),
        (NOISE, ("--model", "other"), "nothing is fused under that name yet"),
        (NOISE[:0], (), "holds no images"),
    ],
)
def test_images_that_cannot_be_used(
    fused: Cli, array: np.ndarray, options: tuple[str, ...], sentence: str
) -> None:
    before = everything()
    arrays("c.npz", array)
    assert sentence in is_one_sentence(quick(fused, "--calib", "c.npz", *options))
    assert everything() == before


def test_folders_that_cannot_be_used(fused: Cli) -> None:
    before = everything()
    normal = ("--mean", "0.5", "--std", "0.5")
    assert "nope: no such file or folder" in is_one_sentence(quick(fused, "--calib", "nope"))
    Path("images").mkdir()
    assert "images: holds no images" in is_one_sentence(quick(fused, "--calib", "images"))
    for index, side in enumerate((40, 32, 36)):
        Image.fromarray(BYTES[index]).resize((side, side)).save(f"images/{index}.png")
    mixed = is_one_sentence(quick(fused, "--calib", "images", *normal))
    assert "images/1.png: is 32x32 pixels after preprocessing and the first image 40x40" in mixed
    assert everything() == before
    result = quick(fused, "--calib", "images", *normal, "--crop", "32")
    assert result.code == 0, result.err
    assert sidecar()["calibration"]["preprocessing"]["crop"] == [32, 32]


def test_few_images_are_told(fused: Cli) -> None:
    for count, words in ((20, "20 images"), (1, "1 image")):
        arrays("few.npz", NOISE[:count])
        result = quick(fused, "--calib", "few.npz")
        assert result.code == 0, result.err
        assert f"note: few.npz: {words} to calibrate with; ranges from fewer than 32" in result.err
        assert f"on the same {words}: SQNR" in result.err
        assert sidecar()["proof"]["held_out"] is False


def test_nothing_is_fused_yet(cli: Cli) -> None:
    arrays("x.npz", NOISE)
    sentence = is_one_sentence(quick(cli, "--calib", "x.npz"))
    assert "run repvgg-deploy fuse CHECKPOINT first" in sentence
    assert not Path("engines").exists()


def test_a_bound_that_cannot_be_reached(fused: Cli) -> None:
    """What stood there before still does."""
    assert quick(fused, "--calib", "x.npz").code == 0
    before = everything()
    result = quick(fused, "--calib", "x.npz", "--min-sqnr", "150")
    sentence = is_one_sentence(result, 3)
    assert "the bounds hold only with every layer in float" in sentence
    assert "nothing was written" in sentence
    assert everything() == before


def test_layers_stay_in_float_until_the_bound_holds(fused: Cli) -> None:
    assert quick(fused, "--calib", "plain.npz").code == 0
    bound = sidecar()["proof"]["sqnr_db"] + 2.0
    result = quick(fused, "--calib", "plain.npz", "--min-sqnr", bound, "--explain")
    assert result.code == 0, result.err
    assert "most harmful layers" in result.err
    found = sidecar()
    kept = [row for row in found["layers"] if row["reason"] == "costs the most in int8"]
    assert 1 <= len(kept) < 6
    assert all(row["quantized"] is False for row in kept)
    assert f"{count_text(len(kept), 'layer')} kept in float: SQNR" in result.err
    assert "of the multiply-adds run in fp16" in result.err
    assert result.err.count("in float: costs the most in int8") == len(kept)
    assert found["proof"]["sqnr_db"] >= found["proof"]["min_sqnr_db"] == bound
    assert fused("verify").code == 0
    easy = quick(fused, "--calib", "x.npz", "--min-sqnr", "10", "--max-drop", "100")
    assert "the bounds hold with every layer in int8" in easy.err
    assert sidecar()["proof"]["max_drop"] == 100


def test_the_command_offers_every_recipe() -> None:
    assert list(METHODS) == list(RECIPES)


@pytest.mark.parametrize("method", ["minmax", "percentile", "kl", "mse", "equalize"])
def test_every_method(fused: Cli, method: str) -> None:
    result = fused("quantize", "--calib", "x.npz", "--method", method)
    assert result.code == 0, result.err
    assert result.err.strip().endswith(f"; {method}")
    assert sidecar()["method"]["effort"] == method
    assert ("equalized: " in result.err) == (method == "equalize")
    assert fused("verify").code == 0


def test_stem_classifier_and_float_type(fused: Cli) -> None:
    arguments = ("--calib", "x.npz", "--no-stem", "--linear", "--float", "fp32")
    assert quick(fused, *arguments).code == 0
    found = sidecar()
    reasons = {row["name"]: row["reason"] for row in found["layers"] if not row["quantized"]}
    assert reasons == {"stage0.rbr_reparam/Conv": "is the stem"}
    assert found["float_type"] == "fp32"
    assert found["method"] == {"effort": "quick", "seed": 0, "stem": False, "linear": True}
    model = onnx.load(INT8)
    assert {tensor.data_type for tensor in model.graph.initializer} == {
        *(TensorProto.FLOAT, TensorProto.INT8)
    }
    assert quick(fused, "--calib", "x.npz").code == 0
    assert onnx.load(INT8).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16


def network(path: str, *, batch: int | None = None, outputs: int = 1) -> Path:
    """Two convolutions with a SiLU between, as YOLO has them, of 32 px and any batch."""
    rng = np.random.default_rng(0)
    value, shape = helper.make_tensor_value_info, [batch or "n", 3, 32, 32]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"], name="gate"),
        helper.make_node("Mul", ["c", "s"], ["m"], name="silu"),
        helper.make_node("Conv", ["m", "w1"], ["y"], name="two", strides=[2, 2]),
    ]
    weights = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (4, 8, 3, 3)}
    tensors = [
        numpy_helper.from_array(rng.normal(0, 0.2, size).astype(np.float32), name)
        for name, size in weights.items()
    ]
    given = [value(name, TensorProto.FLOAT, None) for name in ("y", "m")[:outputs]]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, shape)], given, tensors)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return Path(path)


@pytest.mark.parametrize(("batch", "outputs"), [(None, 1), (None, 2), (16, 2)])
@pytest.mark.parametrize("bound", [(), ("--min-sqnr", "20")])
def test_a_model_of_ones_own(
    cli: Cli, batch: int | None, outputs: int, bound: tuple[str, ...]
) -> None:
    arrays("x.npz", NOISE)
    model = network("net.onnx", batch=batch, outputs=outputs)
    result = quick(cli, model, "--calib", "x.npz", "--samples", "40", *bound)
    assert result.code == 0, result.err
    count = 40 if batch is None else 32  # whole batches
    assert f"on {count} images other than those" in result.err
    assert "the rest in fp16; quick" in result.err
    path = Path("engines/net/int8.onnx")
    assert [row["quantized"] for row in sidecar(Path(f"{path}.json"))["layers"]] == [True, True]
    session = OrtSession(path)
    truth = OrtSession(model).run({"x": NOISE[: batch or 4]})
    found = session.run({session.inputs[0][0]: NOISE[: batch or 4]})
    assert list(found) == list(truth)
    for name, values in truth.items():
        error = np.square(found[name].astype(np.float64) - values).sum()
        assert error < 0.01 * np.square(values).sum()
    verified = cli("verify", "engines/net")
    assert verified.code == 0, verified.err


@pytest.mark.parametrize("name", ["timm_repvgg", "yolov6_blocks", "repvggplus_pse"])
def test_a_network_of_another_family(cli: Cli, name: str) -> None:
    """Unfused it is refused, with the command that fuses it."""
    side = 96 if name == "repvggplus_pse" else 64
    arrays("x.npz", np.random.default_rng(0).normal(size=(8, 3, side, side)).astype(np.float32))
    unfused = GOLDEN / f"{name}.onnx"
    sentence = is_one_sentence(quick(cli, unfused, "--calib", "x.npz"))
    assert "is not fused yet (" in sentence
    assert "run repvgg-deploy fuse on it" in sentence
    assert cli("fuse", unfused).code == 0
    model = Path("engines", name, "fused.onnx")
    result = quick(cli, model, "--calib", "x.npz", "--samples", "4")
    assert result.code == 0, result.err
    assert "integers: 0 of" in result.err
    verified = cli("verify", model.parent)
    assert verified.code == 0, verified.err


def test_models_that_cannot_be_quantized(fused: Cli) -> None:
    assert fused("export", "--onnx", "--fp16", "--size", "32").code == 0
    assert quick(fused, "--calib", "x.npz", "--float", "fp32").code == 0
    shutil.copy(INT8, "qdq.onnx")
    shutil.copy(FOLDER / "fp16.onnx", "half.onnx")
    Path("junk.onnx").write_bytes(b"junk" * 9)
    network("fixed.onnx", batch=64)
    before = everything()
    arrays("small.npz", NOISE[:, :, :16, :16])
    cases = {
        ("qdq.onnx", "x.npz"): "qdq.onnx: holds Q/DQ nodes already",
        ("half.onnx", "x.npz"): "half.onnx: its inputs are ['input']; quantize takes a model with",
        ("junk.onnx", "x.npz"): "junk.onnx: is a text file",
        ("none.onnx", "x.npz"): "none.onnx: no such file",
        ("ckpt.pth", "x.npz"): "ckpt.pth: is no ONNX model (.onnx); make a checkpoint the current",
        ("fixed.onnx", "small.npz"): "16x16 pixels after preprocessing, and fixed.onnx takes 32x32",
        ("fixed.onnx", "x.npz"): "fixed.onnx: takes 64 images at once, and there are 48",
    }
    for (model, images), words in cases.items():
        arguments = (model, "--calib", images, "--name", "own", "--samples", "48")
        assert words in is_one_sentence(quick(fused, *arguments))
    assert everything() == before


def test_another_models_int8_is_not_overwritten(fused: Cli) -> None:
    assert fused("export", "--onnx", "--size", "32").code == 0
    assert quick(fused, "--calib", "x.npz").code == 0
    before = everything()
    result = quick(fused, FOLDER / "fp32.onnx", "--calib", "x.npz")
    assert "int8.onnx: was made from another model (fused.safetensors)" in is_one_sentence(result)
    assert everything() == before
    assert quick(fused, FOLDER / "fp32.onnx", "--calib", "x.npz", "--name", "own").code == 0
    SIDECAR.unlink()
    result = quick(fused, "--calib", "x.npz")
    assert "nothing says whose it is; move it away" in is_one_sentence(result)
    assert INT8.read_bytes() == before[str(INT8)]


def test_evaluate_and_verify_go_by_the_record(fused: Cli) -> None:
    np.savez("bytes.npz", x=BYTES, y=np.arange(40) % 5)
    how = ("--mean", "0.5", "--std", "0.25")
    assert quick(fused, "--calib", "bytes.npz", "--samples", "20", *how).code == 0
    evaluated = fused("evaluate", INT8, "--data", "bytes.npz", "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["preprocessing"] == sidecar()["calibration"]["preprocessing"]
    refused = fused("evaluate", INT8, "--data", "bytes.npz", "--mean", "0.4")
    assert "mean 0.5 0.5 0.5, not 0.4 0.4 0.4" in is_one_sentence(refused)
    said = json.loads(SIDECAR.read_text())
    said["proof"]["sqnr_db"] += 1
    honest = SIDECAR.read_text()
    SIDECAR.write_text(json.dumps(said))
    assert "on the calibration images its SQNR is" in is_one_sentence(fused("verify"), 3)
    SIDECAR.write_text(honest)
    np.savez("bytes.npz", x=BYTES[::-1], y=np.arange(40) % 5)
    verified = fused("verify")
    assert verified.code == 0
    assert "ok int8.onnx, proof: its SQNR was not measured again" in verified.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 1)]
)
def test_a_killed_command_leaves_nothing(
    fused: Cli, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """While it works on the images, which lie in a temporary folder by then."""
    assert quick(fused, "--calib", "x.npz").code == 0
    before = everything()
    spool = tmp_path / "spool"
    spool.mkdir()
    environment = {**os.environ, "TMPDIR": str(spool)}
    place = "repvgg_deploy.quantize.quantizer:quantize"
    with stopped_at(place, "quantize", "--calib", "x.npz", env=environment) as process:
        assert list(spool.glob("repvgg-deploy-*")) != []
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert list(spool.glob("repvgg-deploy-*")) == []
    assert everything() == before
