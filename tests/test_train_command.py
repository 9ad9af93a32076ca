"""train, by its command: from images to what is deployed, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repvgg_deploy.data.demo import demo_images_file
from repvgg_deploy.rebuild import rebuild
from repvgg_deploy.redo_log import recover_inside
from repvgg_deploy.train.read import read_training
from repvgg_deploy.train.record import TrainRecord

from .conftest import Cli, Outcome
from .helpers import training_state
from .moments import copies_at_each_moment, files
from .test_failed_checks import damaging_fusion

pytest.importorskip("lightning_fabric", reason="needs the extra train")

SLIM = ("--arch", "repvgg-a0", "--widths", "4,4,4,8,8")
IMAGES, VALIDATED = 40, 20
Train = Callable[..., Outcome]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures of clothes: folders of three classes, in train and val."""
    with np.load(demo_images_file()) as content:
        images, labels = content["images"], content["labels"]
    taken = np.flatnonzero(labels < 3)[: IMAGES + VALIDATED]
    for number, (image, label) in enumerate(zip(images[taken], labels[taken], strict=True)):
        part = "train" if number < IMAGES else "val"
        folder = tmp_path / "clothes" / part / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "clothes"


@pytest.fixture
def train(cli: Cli, data: Path) -> Train:
    """A run of one epoch unless more are asked for, on images of 16x16 pixels."""

    def run(*arguments: object, start: tuple[object, ...] = SLIM) -> Outcome:
        epochs = () if "--epochs" in arguments else ("--epochs", 1)
        images = ("--preprocess", "fashion-mnist-32", "--crop", 16) * ("--crop" not in arguments)
        given = () if "--data" in arguments else ("--data", data)
        return cli("train", *start, *given, *images, "--batch", 8, *epochs, *arguments)

    return run


def weights(path: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)[key]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_from_images_to_a_deployed_network(cli: Cli, train: Train) -> None:
    done = train("--epochs", 2, "--ema", 0.5, "--out", "runs/a", "--json")
    assert done.code == 0, done.err
    record = read_training(Path("runs/a/train.json"))
    assert rebuild(TrainRecord, json.loads(done.out)) == record
    assert record.command.startswith("repvgg-deploy train --arch repvgg-a0 ")
    assert (record.data.images, record.data.val_images, record.data.num_classes) == (40, 20, 3)
    assert [one.step for one in record.epochs] == [5, 10]
    last = "next: repvgg-deploy fuse runs/a/best.pth --name a"
    for words in ("epoch 2/2  loss ", " % (ema ", "img/s", last):
        assert words in done.err
    assert cli("fuse", "runs/a/best.pth", "--name", "a").code == 0
    assert cli("verify").code == 0
    exported = cli("export", "--onnx")
    assert exported.code == 0 and "fp32, 16x16, opset 17, checked" in exported.err
    found = cli("evaluate", "--data", "clothes/val", "--json")  # preprocessed as in training
    assert found.code == 0, found.err
    scores = [one["scores"] for one in json.loads(found.out)["networks"]]
    best = max(one.ema_top1 or 0 for one in record.epochs)
    assert [100 * one["top1"]["value"] for one in scores] == pytest.approx([best] * 3)
    assert [one["agreement"]["value"] for one in scores] == [1.0] * 3


def test_the_report_has_the_run(cli: Cli, train: Train) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    pytest.importorskip("jinja2", reason="needs the extra report")
    assert train("--out", "runs/a").code == 0
    assert cli("fuse", "runs/a/last.pth", "--name", "a").code == 0
    assert cli("report").code == 0
    report = json.loads(Path("engines/a/report.json").read_text())
    assert report["training"]["record"]["architecture"] in Path("engines/a/report.md").read_text()
    assert report["commands"][0]["line"] == report["training"]["record"]["command"]


def test_a_resumed_run_is_the_same_run(train: Train) -> None:
    """Ctrl-C comes when the first epoch's line is due."""
    assert train("--epochs", 2, "--out", "runs/whole").code == 0
    stopped = _interrupted(train, "--epochs", 2, "--out", "runs/a")
    assert stopped.code == 1
    assert "go on with the same command and --resume" in stopped.err
    assert read_training(Path("runs/a/train.json")).stopped.startswith("interrupted after step")
    again = train("--epochs", 2, "--out", "runs/a", "--resume")
    assert again.code == 0, again.err
    assert "going on after step " in again.err
    assert same(weights(Path("runs/a/last.pth")), weights(Path("runs/whole/last.pth")))
    assert read_training(Path("runs/a/train.json")).stopped == ""


def _interrupted(train: Train, *arguments: object, start: tuple[object, ...] = SLIM) -> Outcome:
    from repvgg_deploy.cli.train_progress import TrainingDisplay

    def interrupt(display: TrainingDisplay, epoch: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingDisplay, "epoch", interrupt)
        return train(*arguments, start=start)


def test_a_run_is_not_written_over(train: Train) -> None:
    assert train("--out", "runs/a").code == 0
    before = Path("runs/a/last.pth").read_bytes()
    again = train("--out", "runs/a")
    assert again.code == 1
    assert "runs/a: holds a run already" in again.err
    assert Path("runs/a/last.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--lr", "0.2"), "recipe.lr 0.1 (now 0.2)"),
        (("--hold-out", "0.2"), "other settings: data."),
        (("--no-flip",), "data.augmentation.flip True (now False)"),
    ],
)
def test_resume_with_other_settings(train: Train, changes: tuple[str, ...], words: str) -> None:
    assert train("--out", "runs/a").code == 0
    again = train("--out", "runs/a", "--resume", *changes)
    assert again.code == 1
    assert words in again.err


def test_resume_of_another_architecture_or_of_nothing(train: Train) -> None:
    nothing = train("--out", "runs/a", "--resume")
    assert nothing.code == 1
    assert "there is no run to go on with" in nothing.err
    assert train("--out", "runs/a").code == 0
    other = ("--arch", "RepVGG-A0", "--widths", "4,4,4,8,16")
    again = train("--out", "runs/a", "--resume", start=other)
    assert again.code == 1
    assert "resume with the same architecture" in again.err


def test_fine_tuning_with_a_new_head(train: Train, checkpoint: Path) -> None:
    done = train("--lr", "1e-9", "--out", "runs/a", start=("--init", checkpoint))
    assert done.code == 0, done.err
    assert "new: linear.weight, linear.bias: a new head" in done.err
    record = read_training(Path("runs/a/train.json"))
    assert record.initial is not None
    assert set(record.initial.fresh) == {"linear.weight", "linear.bias"}
    before, after = training_state(), weights(Path("runs/a/last.pth"))
    assert after["linear.weight"].shape == (3, 16)
    for name in record.initial.taken:
        if name.endswith("conv.weight"):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)


def test_init_is_trained_on_what_it_was_trained_on(cli: Cli, train: Train, data: Path) -> None:
    """Classes, architecture and preprocessing are those of the run that it comes from."""
    assert train("--out", "runs/a").code == 0
    init = ("--init", "runs/a/best.pth", "--keep-head")
    done = cli("train", *init, "--data", data, "--epochs", 1, "--batch", 8, "--out", "runs/b")
    assert done.code == 0, done.err
    before, after = (read_training(Path(f"runs/{name}/train.json")) for name in "ab")
    assert after.data.preprocessing == before.data.preprocessing
    assert (after.spec, after.recipe["lr"]) == (before.spec, 0.01)
    assert after.initial is not None
    assert after.initial.fresh == {}


def test_training_for_int8(cli: Cli, train: Train) -> None:
    assert train("--out", "runs/a").code == 0
    init = ("--qat", "--init", "runs/a/best.pth", "--samples", 16)
    settings = ("--distill", "--lr", "1e-5", "--out", "runs/b")  # of a network that knows little
    done = train(*settings, start=init)
    assert done.code == 0, done.err
    assert "int8 without training: SQNR" in done.err
    record = read_training(Path("runs/b/train.json"))
    assert record.kind == "qat"
    assert record.qat is not None
    assert record.qat["distill"] is True
    verified = cli("verify", "--model", "b")
    assert verified.code == 0, verified.err
    again = train(*settings, "--resume", start=init)
    assert again.code == 0, again.err
    refused = cli("fuse", "runs/b/last.pth")
    assert refused.code == 1


INT8 = ("--qat", "--init", "runs/a/best.pth", "--lr", "1e-5")


def test_int8_resumed_is_the_same_model(train: Train) -> None:
    """Settings that would change it are refused, those of calibration too."""
    assert train("--out", "runs/a").code == 0
    asked = ("--samples", 16, "--epochs", 2, "--reinsert-bn", "--scales", "learned")
    assert train(*asked, "--out", "runs/whole", start=INT8).code == 0
    stopped = _interrupted(train, *asked, "--out", "runs/b", start=INT8)
    assert stopped.code == 1, stopped.err
    assert not Path("engines/b/int8.onnx").exists()
    other = ("--samples", 8, *asked[2:], "--out", "runs/b", "--resume")
    assert "qat.samples 16 (now 8)" in train(*other, start=INT8).err
    other = (*asked, "--start", "quick", "--out", "runs/b", "--resume")
    assert "qat.start thorough (now quick)" in train(*other, start=INT8).err
    again = train(*asked, "--out", "runs/b", "--resume", start=INT8)
    assert again.code == 0, again.err
    whole, resumed = (Path(f"engines/{name}/int8.onnx") for name in ("whole", "b"))
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("damage", ["missing", "another kind", "cut off"])
def test_int8_of_a_best_checkpoint_that_is_damaged(train: Train, damage: str) -> None:
    assert train("--out", "runs/a").code == 0
    asked = ("--samples", 16, "--start", "quick", "--out", "runs/b")
    assert train(*asked, start=INT8).code == 0
    before = Path("engines/b/int8.onnx").read_bytes()
    best = Path("runs/b/best.pth")
    content = best.read_bytes()
    best.unlink()
    if damage != "missing":
        float_run = Path("runs/a/best.pth").read_bytes()
        best.write_bytes(content[:1000] if damage == "cut off" else float_run)
    again = train(*asked, "--resume", start=INT8)
    assert again.code == 1
    assert "runs/b/best.pth" in again.err.splitlines()[-1]
    assert "Traceback" not in again.err
    assert Path("engines/b/int8.onnx").read_bytes() == before


def test_int8_of_weights_that_were_read_in_another_way(cli: Cli, train: Train) -> None:
    """The folder's fused weights are the moving average, and the weights themselves are asked."""
    assert train("--out", "runs/a", "--ema", "0.5").code == 0
    assert cli("fuse", "runs/a/last.pth", "--name", "b").code == 0
    asked = ("--samples", 16, "--start", "quick", "--out", "runs/b")
    start = ("--qat", "--init", "runs/a/last.pth", "--lr", "1e-5", "--distill")
    refused = train(*asked, "--no-init-ema", start=start)
    assert refused.code == 1
    assert "fused.safetensors: was read from runs/a/last.pth with another" in refused.err
    assert train(*asked, "--init-ema", start=start).code == 0


def test_int8_over_another_networks_model_is_refused_before_training(
    cli: Cli, train: Train
) -> None:
    assert train("--out", "runs/a").code == 0
    assert cli("fuse", "runs/a/best.pth", "--name", "b").code == 0
    Path("engines/b/int8.onnx").write_bytes(b"somebody else's")
    refused = train("--samples", 16, "--out", "runs/b", start=INT8)
    assert refused.code == 1
    assert "engines/b/int8.onnx: stands there" in refused.err
    assert not Path("runs/b").exists()


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (("--batch", 64), 1, "40 images to train on, fewer than a batch of 64"),
        (("--lr", "1e30", "--epochs", 3), 3, ""),
        (("--engines", "runs/b/last.pth/e"), 1, "cannot be written: a part of that path"),
    ],
)
def test_int8_that_fails_changes_nothing(
    cli: Cli, train: Train, asked: tuple[object, ...], code: int, said: str
) -> None:
    """Nor does it make another model the current one."""
    assert train("--out", "runs/a").code == 0
    assert cli("fuse", "runs/a/last.pth", "--name", "mine").code == 0
    before = files(Path("engines"))
    Path("runs/b").mkdir()
    Path("runs/b/last.pth").write_text("of another run")
    runs = files(Path("runs"))
    failed = train("--out", "runs/c", *asked, start=INT8[:3])
    assert failed.code == code, failed.err
    assert said in failed.err
    assert files(Path("engines")) == before
    if code == 1:
        assert files(Path("runs")) == runs
        assert not Path("runs/c").exists()


def test_int8_and_its_fused_weights_appear_together(cli: Cli, train: Train, tmp_path: Path) -> None:
    """Killed at whatever moment; and with them the model becomes the current one."""
    assert train("--out", "runs/a").code == 0
    assert cli("fuse", "runs/a/last.pth", "--name", "mine").code == 0
    before, codes = files(Path("engines")), []
    asked = ("--samples", 16, "--start", "quick", "--out", "runs/b")
    copies = copies_at_each_moment(
        lambda: codes.append(train(*asked, start=INT8).code), tmp_path / "engines",
        tmp_path / "copies",
    )  # fmt: skip
    assert codes == [0]
    after = files(Path("engines"))
    assert json.loads(after["current.json"]) == {"model": "b"}
    assert {"b/int8.onnx", "b/int8.safetensors", "b/fused.safetensors"} <= after.keys()
    found = []
    for copy in copies:
        recover_inside(copy)
        found.append(files(copy))
        assert found[-1] in (before, after)
    assert {state == after for state in found} == {False, True}
    assert cli("verify").code == 0


# What can be wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name what to train: --arch, or a checkpoint with --init"),
        (("--qat",), "--qat needs --init"),
        ((*SLIM, "--keep-head"), "--keep-head has no effect here: it is for --init"),
        ((*SLIM, "--family", "repvgg"), "--family has no effect here"),
        ((*SLIM, "--distill"), "--distill has no effect here: it is for --qat"),
        ((*SLIM, "--engines", "e"), "--engines has no effect here: it is for --qat"),
        ((*SLIM, "--aux-weight", "0.2"), "this architecture has no auxiliary heads"),
        (("--qat", "--init", "x.pth", "--custom-l2"), "--custom-l2 has no effect here"),
        (("--qat", "--init", "x.pth", "--distill", "--mixup", "1"), "--mixup has no effect here"),
        (("--arch", "RepVGG-Z9"), "'RepVGG-Z9' is not one of"),
        (("--arch", "RepVGG-A0", "--widths", "1,2,3"), "'1,2,3' is not 5 numbers"),
        ((*SLIM, "--lr", "nan"), "'nan' is no learning rate"),
        ((*SLIM, "--mixup", "nan"), "'nan' is no number from 0 and up to"),
        ((*SLIM, "--hold-out", "1"), "'1' is no number from 0 and below 1"),
        ((*SLIM, "--randaugment", "2"), "'2' is not 2 numbers, as 2,9"),
    ],
)
def test_wrong_usage(train: Train, arguments: tuple[str, ...], words: str) -> None:
    result = train(start=arguments)
    assert result.code == 2, result.err
    assert words in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", 100), "fewer than a batch of 100"),
        (("--batch", 5, "--mixup", 0.2), "--mixup mixes pairs"),
        (("--val", "clothes/train"), "these are the training images"),
        (("--val", "nowhere"), "nowhere: no such file or folder"),
        (("--randaugment", "2,50"), "--randaugment: "),
        (("--precision", "fp16", "--device", "cpu"), "fp16 training needs a CUDA GPU"),
        (("--warmup-epochs", 1), "a warm-up of 1 epochs leaves none of 1"),
        (("--init", "nowhere.pth"), "nowhere.pth: no such file"),
        (("--init", "ckpt.pth"), "ckpt.pth: holds custom"),
    ],
)
def test_what_cannot_be_trained(
    train: Train, checkpoint: Path, arguments: tuple[object, ...], words: str
) -> None:
    result = train("--out", "runs/a", *arguments)
    assert result.code == 1, result.err
    assert words in result.err
    assert result.err.count("Error: ") == 1
    assert "Traceback" not in result.err
    assert not Path("runs/a/last.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resume",), "there is no run to go on with"),
        (("--warmup-epochs", 1), "a warm-up of 1 epochs leaves none of 1"),
    ],
)
def test_refused_before_any_image_is_looked_at(
    train: Train, arguments: tuple[object, ...], words: str
) -> None:
    """To decode all of a large data set takes long."""
    result = train("--out", "runs/a", "--data", "nowhere", *arguments)
    assert result.code == 1
    assert words in result.err


def test_images_of_other_channels_than_init(train: Train, checkpoint: Path) -> None:
    result = train("--channels", 1, "--mean", 0.3, "--std", 0.3, start=("--init", checkpoint))
    assert result.code == 1
    assert "takes images of 3 channels, and these have 1" in result.err


def test_init_is_fused_already(cli: Cli, train: Train, checkpoint: Path) -> None:
    assert cli("fuse", checkpoint).code == 0
    result = train(start=("--init", "engines/ckpt/fused.safetensors"))
    assert result.code == 1
    assert "is fused already" in result.err


def test_a_class_without_images(train: Train, data: Path) -> None:
    (data / "train/class9").mkdir()
    result = train()
    assert result.code == 1
    assert "class9" in result.err


def test_corrupt_images_are_left_out_counted_and_listed(train: Train, data: Path) -> None:
    bad = next((data / "train/class0").iterdir())
    bad.write_bytes(b"no picture")
    result = train("--out", "runs/a", "--max-corrupt", 0.1)
    assert result.code == 0, result.err
    assert "corrupt: 1 of 40" in result.err
    record = read_training(Path("runs/a/train.json"))
    assert record.data.images == IMAGES - 1
    assert [Path(name).name for name in record.data.corrupt] == [bad.name]
    for path in list((data / "train/class1").iterdir())[:6]:
        path.write_bytes(b"no picture")
    result = train("--out", "runs/b", "--max-corrupt", 0.1)
    assert result.code == 1
    assert "--max-corrupt" in result.err


def test_a_label_outside_the_network(train: Train, data: Path) -> None:
    """A head that is kept has fewer classes than the images."""
    assert train("--out", "runs/a").code == 0
    extra = data / "train/class7"
    extra.mkdir()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(extra / "a.png")
    for part in ("--keep-head", "--qat"):
        init = ("--init", "runs/a/best.pth")
        result = train("--hold-out", 0.1, part, "--out", "runs/b", start=init)
        assert result.code == 1
        assert "3" in result.err
        assert "4" in result.err


def test_a_loss_that_is_not_finite(train: Train) -> None:
    result = train("--lr", "1e30", "--out", "runs/a")
    assert result.code == 3
    assert "training diverged" in result.err
    assert "step" in result.err
    assert not Path("runs/a/last.pth").exists()
    assert "diverged" in read_training(Path("runs/a/train.json")).stopped


def test_a_full_disk(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved before stands, and is gone on with."""
    assert train("--epochs", 2, "--out", "runs/whole").code == 0
    stopped = _interrupted(train, "--epochs", 2, "--out", "runs/a")
    assert stopped.code == 1
    saved = Path("runs/a/last.pth").read_bytes()

    def full(state: Any, stream: Any) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("repvgg_deploy.train.run_folder.torch.save", full)
        result = train("--epochs", 2, "--out", "runs/a", "--resume")
    assert result.code == 1
    assert "the disk is full" in result.err
    assert Path("runs/a/last.pth").read_bytes() == saved
    assert not list(Path("runs/a").glob("*.part"))
    assert train("--epochs", 2, "--out", "runs/a", "--resume").code == 0
    assert same(weights(Path("runs/a/last.pth")), weights(Path("runs/whole/last.pth")))


def test_help_is_in_sections(cli: Cli) -> None:
    help_text = cli("train", "--help").out
    titles = ("Network:", "Data:", "Augmentation:", "Recipe:", "Run:", "Training for int8:")
    places = [help_text.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert places[0] < help_text.index("--arch NAME") < places[1] < help_text.index("--data PATH")
    assert help_text.count("--epochs INTEGER") == 1


def test_int8_of_weights_whose_fusion_fails_its_check(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("--out", "runs/a").code == 0
    damaging_fusion(monkeypatch)
    result = train("--samples", 16, "--out", "runs/b", start=INT8)
    assert result.code == 3, result.err
    assert "the fused network is not the training network" in result.err
    assert not list(Path("engines").rglob("*.safetensors"))
