"""A network trained for int8, written as quantize writes one: what its files say, what fails."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from repvgg_deploy.data.image_set import open_images
from repvgg_deploy.data.preprocessing import PRESETS
from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.quantize.fake import fake_quantized, read_int8
from repvgg_deploy.quantize.integers import follow, run_with_integers
from repvgg_deploy.quantize.layers import layer_key
from repvgg_deploy.quantize.quality import Likeness
from repvgg_deploy.quantize.quantizer import QuantizedNetwork
from repvgg_deploy.quantize.read import read_qdq
from repvgg_deploy.reparam.graph.files import load_model
from repvgg_deploy.steps import train_qat
from repvgg_deploy.steps.calibration import pick_training_images
from repvgg_deploy.steps.int8_proof import MOST_DIFFERING
from repvgg_deploy.steps.qat_proof import check_quality
from repvgg_deploy.steps.quantize import QuantizeResult
from repvgg_deploy.steps.train_qat import QatRun, export_qat, prepare_qat
from repvgg_deploy.train.batch import Batch
from repvgg_deploy.train.qat.distill import Distillation
from repvgg_deploy.train.qat.layer import QatLayer
from repvgg_deploy.train.qat.network import trained
from repvgg_deploy.train.qat.settings import STATE_KEY, QatSettings
from repvgg_deploy.workspace import ModelFolder

from .conftest import Cli
from .helpers import tiny_spec, training_state
from .qat import train

FOLDER = ModelFolder(Path("engines/ckpt"))
INT8, INTEGERS = FOLDER.onnx("int8"), FOLDER.int8_weights
COMMAND = "repvgg-deploy train --qat --init ckpt.pth --data x.npz --epochs 1"
DISTILLED = QatSettings(distill=True)


@pytest.fixture
def fused(cli: Cli, tmp_path: Path) -> Cli:
    """A fused network in the workspace, a training set, and a validation set."""
    torch.save(training_state(tiny_spec(se_ratio=4)), tmp_path / "ckpt.pth")
    assert cli("fuse", "ckpt.pth").code == 0
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        images = rng.normal(size=(48, 3, 32, 32)).astype(np.float32)
        np.savez(f"{name}.npz", x=images, y=np.arange(48) % 5)
    return cli


def prepare(settings: QatSettings = DISTILLED, val: bool = True) -> QatRun:
    images = open_images(Path("train.npz"), None)
    others = open_images(Path("val.npz"), None) if val else None
    calibration = pick_training_images(images, others, 32, 0)
    return prepare_qat(FOLDER.fused, calibration, settings, 0, lambda _what, _share: None)


def export(run: QatRun) -> QuantizeResult:
    return export_qat(run, FOLDER, {"command": COMMAND}, lambda _what, _share: None)


def images_of(name: str) -> np.ndarray:
    with np.load(f"{name}.npz") as content:
        return np.asarray(content["x"])


def towards_nothing(network: nn.Module, batch: Batch, step: int) -> Tensor:
    """Logits of another network than the one that training started from."""
    logits: Tensor = network(batch.images)
    return logits.square().mean()


def sidecar() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(INT8.with_name("int8.onnx.json").read_text())
    return data


@pytest.mark.parametrize(
    "settings",
    [
        DISTILLED,
        replace(DISTILLED, float_type="fp32", linear=True),
        replace(DISTILLED, scales="learned"),
        replace(DISTILLED, stem=False),
        replace(DISTILLED, reinsert_bn=True),
    ],
)
def test_what_onnx_runtime_computes_with_is_what_was_trained(
    fused: Cli, settings: QatSettings
) -> None:
    run = prepare(settings)
    train(run.network, Distillation(run.teacher), images_of("train"), 15, 0.001)
    meant = trained(run.network, run.start)
    result = export(run)
    model = load_model(INT8)
    for layer, found in zip(meant.layers, read_qdq(model).layers, strict=True):
        assert np.array_equal(layer.weight, found.weight)
        assert np.array_equal(layer.weight_scales, found.weight_scales)
        assert layer.input_scale == found.input_scale
    assert any(
        not np.array_equal(one.bias, other.bias)
        for one, other in zip(meant.layers, run.start.layers, strict=True)
    )
    samples = images_of("val")[:8]
    own = run_with_integers(INT8, model, "input", samples, 8)
    dtype = torch.float16 if settings.float_type == "fp16" else torch.float32
    followed = follow(fake_quantized(read_int8(INTEGERS), dtype), samples, own, torch.device("cpu"))
    assert own.integers.keys() == {layer_key(layer.name) for layer in meant.layers}
    values = sum(found.size for found in own.integers.values())
    differing = sum(
        int((own.integers[name] != followed.integers[name]).sum()) for name in own.integers
    )
    assert differing <= MOST_DIFFERING[settings.float_type] * values
    assert result.artifact.proof["integers"]["largest"] <= 1


def test_every_command_takes_what_was_distilled(fused: Cli) -> None:
    run = prepare()
    train(run.network, Distillation(run.teacher), images_of("train"), 3, 0.003)
    result = export(run)
    assert run.before.sqnr_db > 20 and result.quality.sqnr_db > 20
    record = sidecar()
    assert record["method"] == {
        "effort": "qat", "seed": 0, "command": COMMAND, **DISTILLED.to_dict(),
    }  # fmt: skip
    assert record["proof"]["held_out"] is True
    verified = fused("verify")
    assert verified.code == 0, verified.err
    assert "8 checks passed, 0 checks not possible here" in verified.err
    assert "not measured again" not in verified.err
    pair = fused("verify", FOLDER.fused, INT8)
    assert pair.code == 0 and "are those that were trained;" in pair.err
    assert fused("inspect", INT8).code == 0
    evaluated = fused("evaluate", INT8, "--data", "val.npz", "--json")
    assert evaluated.code == 0, evaluated.err
    report = fused("report", "--json")
    assert report.code == 0, report.err
    commands = {one["target"]: one for one in json.loads(report.out)["commands"]}
    assert commands["int8.onnx"]["line"] == COMMAND
    assert commands["int8.onnx"]["recorded"] is True


def test_a_network_trained_on_labels_may_be_far_from_the_float_one(fused: Cli) -> None:
    run = prepare(QatSettings())
    train(run.network, towards_nothing, images_of("train"), 30, 0.02)
    result = export(run)
    assert result.quality.sqnr_db < 3  # which no bound of quantize's would let pass
    assert fused("verify").code == 0
    model = onnx.load(INT8)
    tensor = next(t for t in model.graph.initializer if t.name == "stage0.rbr_reparam.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, INT8)
    changed = fused("verify", FOLDER.fused, INT8)
    assert changed.code == 3
    assert "1 of 108 integers are not those" in changed.err


def test_the_same_images_give_the_same_start(fused: Cli) -> None:
    one, other = prepare().network.state_dict(), prepare().network.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_without_a_validation_set_it_is_measured_on_what_it_was_fitted_to(fused: Cli) -> None:
    export(prepare(val=False))
    assert sidecar()["proof"]["held_out"] is False
    assert fused("verify").code == 0
    np.savez("train.npz", x=images_of("train")[::-1], y=np.arange(48) % 5)
    verified = fused("verify")
    assert verified.code == 0
    assert "its SQNR was not measured again" in verified.err


def test_what_it_was_measured_on_is_found_again_in_idx_files(fused: Cli) -> None:
    """They hold two splits: one is trained on, the other judges."""
    rng = np.random.default_rng(0)
    for split in ("train", "t10k"):
        pixels = rng.integers(0, 256, (40, 28, 28), np.uint8).tobytes()
        labels = (np.arange(40) % 5).astype(np.uint8).tobytes()
        images = struct.pack(">4i", 2051, 40, 28, 28) + pixels
        Path(f"{split}-images-idx3-ubyte").write_bytes(images)
        Path(f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 40) + labels)
    how = PRESETS["fashion-mnist-32"]
    train, test = (open_images(Path(), how, split=split) for split in ("train", "test"))
    calibration = pick_training_images(train, test, 16, 0)
    export(prepare_qat(FOLDER.fused, calibration, DISTILLED, 0, lambda _what, _share: None))
    verified = fused("verify")
    assert verified.code == 0, verified.err
    assert "not measured again" not in verified.err


def test_the_checkpoint_of_a_run_is_no_networks(fused: Cli) -> None:
    torch.save({STATE_KEY: prepare().network.state_dict(), "step": 3, "epoch": 1}, "last.pth")
    result = fused("fuse", "last.pth")
    assert result.code == 1
    assert result.err.strip().splitlines()[-1].startswith("Error: last.pth: ")
    assert "Traceback" not in result.err


# -- what is refused


def nothing_written() -> bool:
    return {path.name for path in FOLDER.path.iterdir()} == {
        "fused.safetensors", "fused.safetensors.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda layer: layer.weight.fill_(float("nan")), "with values that are not finite"),
        (lambda layer: layer.bias.add_(1e4), "SQNR of -"),
    ],
)
def test_training_that_went_wrong(
    fused: Cli, spoil: Callable[[QatLayer], object], sentence: str
) -> None:
    run = prepare()
    layer = run.network.get_submodule("stage4.0.rbr_reparam")
    assert isinstance(layer, QatLayer)
    with torch.no_grad():
        spoil(layer)
    with pytest.raises(CheckFailed, match=sentence):
        export(run)
    assert nothing_written()


def test_right_answers_that_are_lost() -> None:
    check_quality(Path("x"), Likeness(2.0, 0.5, 9.9), distilled=False)
    check_quality(Path("x"), Likeness(2.0, 0.5, None), distilled=False)
    check_quality(Path("x"), Likeness(15.0, 0.5, 50.0), distilled=True)
    with pytest.raises(CheckFailed, match=r"top-1 falls by 10\.1 points, more than 10"):
        check_quality(Path("x"), Likeness(40.0, 0.5, 10.1), distilled=False)
    with pytest.raises(CheckFailed, match=r"SQNR of 14\.9 dB, less than 15"):
        check_quality(Path("x"), Likeness(14.9, 0.5, 0.0), distilled=True)


@pytest.mark.parametrize(
    ("part", "change"), [("weight", 1), ("weight_scales", 2.0**-14), ("bias", 1.0)]
)
def test_a_read_out_that_is_not_what_was_trained(
    fused: Cli, monkeypatch: pytest.MonkeyPatch, part: str, change: float
) -> None:
    def wrong(network: nn.Module, start: QuantizedNetwork) -> QuantizedNetwork:
        made = trained(network, start)  # type: ignore[arg-type]
        first, *others = made.layers
        values = getattr(first, part).copy()
        values.reshape(-1)[-1] += values.dtype.type(change)
        return replace(made, layers=[replace(first, **{part: values}), *others])

    monkeypatch.setattr(train_qat, "trained", wrong)
    with pytest.raises(CheckFailed, match="integers and scales of stage0"):
        export(prepare())
    assert nothing_written()


def test_a_model_that_holds_other_integers(fused: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_qat.to_int8

    def wrong(source: Path, network: QuantizedNetwork, options: Any) -> onnx.ModelProto:
        first, *others = network.layers
        layers = [replace(first, weight=-first.weight), *others]
        return whole(source, replace(network, layers=layers), options)

    run = prepare()
    monkeypatch.setattr(train_qat, "to_int8", wrong)
    with pytest.raises(CheckFailed, match=r"integers and scales of stage0\.rbr_reparam/Conv"):
        export(run)
    assert nothing_written()


def test_a_number_that_fp16_does_not_hold(fused: Cli) -> None:
    state = training_state(tiny_spec(se_ratio=4))
    state["linear.weight"][0, 0] = 1e5
    torch.save(state, "large.pth")
    assert fused("fuse", "large.pth").code == 0
    refused = fused("quantize", "--calib", "train.npz", "--samples", 16)
    assert refused.code == 1
    words = "Error: engines/large/fused.safetensors: linear.weight reaches 1e+05, beyond float16's"
    assert words in refused.err and "--float fp32" in refused.err
    run = prepare()
    with torch.no_grad():
        run.network.linear.weight[0, 0] = 1e5
    with pytest.raises(UserError, match=r"ckpt/fused\.safetensors: linear\.weight reaches"):
        export(run)
    assert nothing_written()


def test_sources_that_are_no_fused_weights(fused: Cli) -> None:
    run = prepare()
    for path, sentence in (("ckpt.pth", "is not fused yet"), ("net.onnx", "is an ONNX model")):
        with pytest.raises(UserError, match=f"{path}: {sentence}"):
            prepare_qat(Path(path), run.calibration, DISTILLED, 0, lambda _what, _share: None)


def test_another_networks_int8_model_is_not_replaced(fused: Cli) -> None:
    run = prepare()
    INT8.write_bytes(b"mine")
    with pytest.raises(UserError, match="nothing says whose it is; move it away"):
        export(run)
    assert INT8.read_bytes() == b"mine"
