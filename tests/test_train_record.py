"""train.json: read strictly, and shown in the report of the checkpoint that it is of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.report.html.page import html, markdown
from repvgg_deploy.sidecar import sidecar_path, write_json
from repvgg_deploy.steps.lineage.collect import collect
from repvgg_deploy.steps.lineage.record import Report
from repvgg_deploy.train.read import read_training
from repvgg_deploy.workspace import ModelFolder

from .conftest import Cli
from .report_models import SCRIPT
from .training_records import epoch, training_record

FOLDER = ModelFolder(Path("engines/ckpt"))


@pytest.fixture
def record(checkpoint: Path) -> Path:
    """A train.json beside the checkpoint."""
    path = checkpoint.with_name("train.json")
    write_json(path, training_record(checkpoint))
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_record_is_read_as_it_was_written(record: Path, checkpoint: Path) -> None:
    assert read_training(record) == training_record(checkpoint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema=2), "has schema 2"),
        (lambda d: d.update(schema=True), "has schema True"),
        (lambda d: d.pop("recipe"), "it has no 'recipe'"),
        (lambda d: d.update(more=1), "'more', which does not belong there"),
        (lambda d: d.update(kind="other"), "no kind of training"),
        (lambda d: d["data"].update(images="many"), "it.data.images is no int"),
        (lambda d: d["checkpoints"].update({"x.pth": "abc"}), "no SHA-256"),
        (lambda d: d["epochs"][1].update(epoch=1), "epoch 1 stands after epoch 1"),
        (lambda d: d["epochs"][1].update(val_top1=101), "val_top1 101 of epoch 2"),
        (lambda d: d["epochs"][1].update(seconds=-1), "seconds -1 of epoch 2"),
        (lambda d: d["epochs"][1].update(loss=None), "loss is no float"),
    ],
)
def test_a_damaged_record(
    record: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(record, change)
    with pytest.raises(UserError, match=str(record)) as error:
        read_training(record)
    assert words in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"schema": 1}', '{"a":' * 100_000])
def test_a_file_that_is_no_record(record: Path, content: str) -> None:
    record.write_text(content)
    with pytest.raises(UserError, match=r"train\.json"):
        read_training(record)


def test_no_record_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_training(tmp_path / "train.json")


def section(page: str) -> str:
    return page[page.index('<section id="training">') : page.index('<section id="speed">')]


def absent(report: Report) -> str:
    (found,) = (one for one in report.absent if one.section == "training")
    assert found.command.startswith("repvgg-deploy train ")
    return found.reason


def test_the_report_shows_the_run_that_made_the_checkpoint(
    cli: Cli, record: Path, checkpoint: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    assert cli("fuse", checkpoint).code == 0
    report = collect(FOLDER)
    assert report.training is not None
    assert report.training.record == training_record(checkpoint)
    first = report.commands[0]
    assert (first.target, first.recorded) == (checkpoint.name, True)
    assert first.line == training_record(checkpoint).command
    page, text = html(report, "r.json"), markdown(report, "r.json")
    training = section(page)
    assert training.count("<svg") == 2
    for words in ("84.00", "epoch 6 of 6", "1 corrupt image", "start.pth", "12,800 images", "75 s"):
        assert words in training
    for one in report.training.record.epochs:
        row = f"| {one.epoch} | {one.step} |"
        assert row in text
        assert f'<td class="n">{one.epoch}</td>' in training


def test_text_of_a_record_is_shown_as_text(cli: Cli, record: Path, checkpoint: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")

    def poison(data: dict[str, Any]) -> None:
        data.update(command=SCRIPT, architecture=SCRIPT, stopped=SCRIPT, recipe={SCRIPT: SCRIPT})
        data["data"].update(path=SCRIPT, preprocessing={SCRIPT: [SCRIPT]})
        data["initial"].update(path=SCRIPT, family=SCRIPT)

    edit(record, poison)
    assert cli("fuse", checkpoint).code == 0
    report = collect(FOLDER)
    assert report.training is not None
    assert "<script" not in html(report, "r.json")
    assert "ended early" in section(html(report, "r.json"))


def test_a_run_without_validation_or_epochs(cli: Cli, record: Path, checkpoint: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    unknown = dict.fromkeys(
        ("val_loss", "val_top1", "val_top5", "ema_loss", "ema_top1", "ema_top5")
    )
    write_json(record, training_record(checkpoint, epochs=[epoch(1, **unknown)], initial=None))
    assert cli("fuse", checkpoint).code == 0
    training = section(html(collect(FOLDER), "r.json"))
    assert training.count("<svg") == 1
    assert "nothing: fresh weights" in training
    write_json(record, training_record(checkpoint, epochs=[]))
    assert "<svg" not in section(html(collect(FOLDER), "r.json"))


def test_a_checkpoint_that_was_not_trained_here(cli: Cli, checkpoint: Path) -> None:
    assert cli("fuse", checkpoint).code == 0
    assert "no train.json lies beside ckpt.pth" in absent(collect(FOLDER))


def test_a_record_of_another_checkpoint(cli: Cli, record: Path, checkpoint: Path) -> None:
    edit(record, lambda data: data.update(checkpoints={"best.pth": "0" * 64}))
    assert cli("fuse", checkpoint).code == 0
    report = collect(FOLDER)
    assert report.training is None
    assert "is of other checkpoints" in absent(report)
    record.write_text("{")
    assert "is no training record" in absent(collect(FOLDER))
    torch.save({}, checkpoint)
    assert "cannot be looked at" in absent(collect(FOLDER))


# -- the run that an int8 model is of


@pytest.fixture
def int8(cli: Cli, record: Path, checkpoint: Path, tmp_path: Path) -> Path:
    """The record of a run whose best.pth the sidecar of a model's int8.onnx names; the model is
    quantize's, but for what its sidecar says of that."""
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32))
    assert cli("fuse", checkpoint).code == 0
    assert cli("quantize", "--calib", "x.npz", "--method", "minmax").code == 0
    best = tmp_path / "int8 run" / "best.pth"
    best.parent.mkdir()
    best.write_bytes(b"weights")
    sidecar = sidecar_path(FOLDER.onnx("int8"))
    data = json.loads(sidecar.read_text())
    method = {"effort": "qat", "checkpoint": str(best), "sha256": sha256_file(best)}
    write_json(sidecar, {**data, "method": {**data["method"], **method}})
    path = best.with_name("train.json")
    epochs = [epoch(number, val_top1=70.0 + number, ema_top1=None) for number in (1, 2, 3)]
    write_json(path, training_record(best, kind="qat", qat={"distill": True}, epochs=epochs))
    return path


def test_the_report_shows_the_run_of_an_int8_model(int8: Path, checkpoint: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    report = collect(FOLDER)
    assert report.training is not None
    assert report.training.record == training_record(checkpoint)
    assert report.int8_training is not None
    assert report.int8_training.record == read_training(int8)
    page, text = section(html(report, "r.json")), markdown(report, "r.json")
    assert page.count("<svg") == 4
    ids = re.findall(r'id="([^"]*)"', html(report, "r.json"))
    assert len(ids) == len(set(ids))
    below = page[page.index("For int8") :]
    for words in ("training for int8 that", "73.00", "epoch 3 of 3", "squared error"):
        assert words in below
        assert words not in page[: page.index("For int8")]
    assert "### For int8" in text


def test_an_int8_model_whose_run_is_not_known(int8: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")

    def reason() -> str:
        report = collect(FOLDER)
        assert report.int8_training is None
        (found,) = (one for one in report.absent if one.section == "training for int8")
        assert found.command.startswith("repvgg-deploy train --qat ")
        assert found.reason in section(html(report, "r.json")).replace("&#39;", "'")
        return found.reason

    edit(int8, lambda data: data.update(checkpoints={"best.pth": "0" * 64}))
    assert "is of other checkpoints" in reason()
    int8.unlink()
    assert "no train.json lies beside best.pth" in reason()
    edit(
        sidecar_path(FOLDER.onnx("int8")),
        lambda data: data["method"].update(checkpoint=None),
    )
    assert "does not say which checkpoint" in reason()
    edit(sidecar_path(FOLDER.onnx("int8")), lambda data: data["method"].update(effort="minmax"))
    report = collect(FOLDER)
    assert report.int8_training is None
    assert "training for int8" not in {one.section for one in report.absent}
