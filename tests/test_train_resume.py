"""A run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from repvgg_deploy.data.worker_pool import WorkersEnded
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.train.batch import Batch
from repvgg_deploy.train.interruption import Stopped
from repvgg_deploy.train.observer import Silent
from repvgg_deploy.train.recipe import Recipe

from .helpers import tiny_spec
from .training import RECIPE, TinyBatches, record, train

#: 3 epochs of 3 steps.
FULL = replace(RECIPE, warmup_epochs=0.5, mixup=0.4, ema=0.9, label_smoothing=0.1)
RECIPES = {"fp32": FULL, "bf16": replace(FULL, precision="bf16", channels_last=True)}
STEPS = 9


class At(Silent):
    """Does something after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.at, self.action = step, action
        self.first: int | None = None

    def started(self, step: int, steps: int) -> None:
        assert steps == STEPS
        self.first = step

    def step(self, step: int, loss: float | None, images_per_second: float | None) -> None:
        if step == self.at:
            self.action()


def fail() -> None:
    raise ZeroDivisionError


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module", params=RECIPES)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recipe]:
    """A run that nothing interrupted."""
    torch.set_num_threads(1)  # as in every test: other threads, other sums
    folder, recipe = tmp_path_factory.mktemp("whole"), RECIPES[request.param]
    train(folder, recipe)
    return folder, recipe


def assert_same_run(folder: Path, expected: Path) -> None:
    """Bit for bit; but for what time it took."""
    assert (folder / "steps.csv").read_bytes() == (expected / "steps.csv").read_bytes()
    for name in ("last.pth", "best.pth"):
        found, whole = (torch.load(f / name, weights_only=True) for f in (folder, expected))
        assert_equal({**found, "progress": 0}, {**whole, "progress": 0})
    records = [json.loads((f / "train.json").read_text()) for f in (folder, expected)]
    untimed = [
        [{k: v for k, v in e.items() if k not in ("seconds", "images_per_second")} for e in epochs]
        for epochs in (r["epochs"] for r in records)
    ]
    assert untimed[0] == untimed[1]
    assert records[0]["stopped"] == records[1]["stopped"] == ""
    for name in ("last.pth", "best.pth"):
        assert records[0]["checkpoints"][name] == sha256_file(folder / name)


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    else:
        assert found == expected


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8])
def test_interrupted_at_any_step(whole: tuple[Path, Recipe], tmp_path: Path, step: int) -> None:
    """The signal arrives after ``step``; the step after it, or the validation, is the last."""
    expected, recipe = whole
    done = step if step % 3 == 0 else step + 1
    with pytest.raises(Stopped) as stop:
        train(tmp_path, recipe, observer=At(step, interrupt))
    assert stop.value.step == done
    saved = torch.load(tmp_path / "last.pth", weights_only=True)
    assert saved["step"] == done
    said = json.loads((tmp_path / "train.json").read_text())
    assert said["stopped"] == f"interrupted after step {done}"
    again = At(0, fail)
    train(tmp_path, recipe, resume=True, observer=again)
    assert again.first == done
    assert_same_run(tmp_path, expected)


@pytest.mark.parametrize("step", [4, 6, 7])
def test_killed_at_any_step(whole: tuple[Path, Recipe], tmp_path: Path, step: int) -> None:
    """Nothing is saved at the end; steps.csv has lines beyond the checkpoint, the last torn."""
    expected, recipe = whole
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, recipe, observer=At(step, fail))
    with (tmp_path / "steps.csv").open("a") as stream:
        stream.write("9,3,0.0")
    again = At(0, fail)
    train(tmp_path, recipe, resume=True, observer=again)
    assert again.first == 3 * ((step - 1) // 3)  # each epoch is saved
    assert_same_run(tmp_path, expected)


def test_interrupted_twice_and_by_sigterm(tmp_path: Path) -> None:
    train(tmp_path / "whole", FULL)
    folder = tmp_path / "run"
    for resume, step in ((False, 1), (True, 4)):
        stop = At(step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            train(folder, FULL, resume=resume, observer=stop)
    train(folder, FULL, resume=True)
    assert_same_run(folder, tmp_path / "whole")


def test_interrupted_while_validating(tmp_path: Path) -> None:
    train(tmp_path / "whole", FULL)
    batches = TinyBatches(FULL)

    def validation() -> Iterator[Batch]:
        interrupt()
        yield from batches.all()

    folder = tmp_path / "run"
    with pytest.raises(Stopped) as stop:
        train(folder, FULL, validation=validation)
    assert stop.value.step == 3
    train(folder, FULL, resume=True)
    assert_same_run(folder, tmp_path / "whole")


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt) as stop:
        train(tmp_path, FULL, observer=At(4, twice))
    assert not isinstance(stop.value, Stopped)
    assert torch.load(tmp_path / "last.pth", weights_only=True)["step"] == 3


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(tmp_path, FULL)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_resumed_is_finished(tmp_path: Path) -> None:
    done = train(tmp_path, FULL)
    before = (tmp_path / "steps.csv").read_bytes()
    again = train(tmp_path, FULL, resume=True)
    assert again == done
    assert (tmp_path / "steps.csv").read_bytes() == before


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped after step 5; tests work on a copy."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Stopped):
        train(folder, FULL, observer=At(4, interrupt))
    return folder


@pytest.fixture
def started(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr": 0.2}, r"recipe.lr 0.05 \(now 0.2\)"),
        ({"seed": 1, "mixup": 0.0}, r"recipe.mixup 0.4 \(now 0.0\), recipe.seed 0 \(now 1\)"),
        ({"epochs": 4}, r"recipe.epochs 3 \(now 4\)"),
        ({"ema": None}, r"recipe.ema 0.9 \(now None\)"),
        ({"precision": "bf16"}, r"recipe.precision fp32 \(now bf16\)"),
    ],
)
def test_other_settings(started: Path, changes: dict[str, Any], sentence: str) -> None:
    before = sha256_file(started / "last.pth")
    with pytest.raises(UserError, match=f"last.pth: is of a run with other settings: {sentence}"):
        train(started, replace(FULL, **changes), resume=True)
    assert sha256_file(started / "last.pth") == before


def test_what_changes_no_result_may_differ(started: Path, tmp_path: Path) -> None:
    train(started, replace(FULL, recompute=True), resume=True)
    train(tmp_path / "whole", FULL)
    assert_same_run(started, tmp_path / "whole")


def test_other_data(started: Path) -> None:
    said = record(tiny_spec(), FULL)
    other = replace(said, data=replace(said.data, sha256="b" * 64))
    with pytest.raises(UserError, match=r"data.sha256 aaa.*now bbb"):
        train(started, FULL, resume=True, record=other)


@pytest.mark.parametrize(
    ("spec", "name", "sentence"),
    [
        (tiny_spec(widths=(4, 4, 8, 8, 24)), "A0", "is of tiny, and this run is of A0"),
        (tiny_spec(groups=2), "tiny", "is of another kind of tiny"),
    ],
)  # fmt: skip
def test_another_architecture(started: Path, spec: Any, name: str, sentence: str) -> None:
    other = record(spec, FULL, architecture=name)
    with pytest.raises(UserError, match=sentence):
        train(started, FULL, resume=True, spec=spec, record=other)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save({"state_dict": {}}, path),
        lambda path: torch.save([1], path),
        lambda path: changed(path, lambda c: c.pop("optimizer")),
        lambda path: changed(path, lambda c: c["state_dict"].popitem()),
        lambda path: changed(path, lambda c: c.update(state_dict_ema=None)),
        lambda path: changed(path, lambda c: c.update(step="4")),
        lambda path: changed(path, lambda c: c.update(step=8)),
        lambda path: changed(path, lambda c: c.update(step=4.5)),
        lambda path: changed(path, lambda c: c.update(progress={})),
        lambda path: changed(path, lambda c: c["progress"].update(loss_sum=float("nan"))),
        lambda path: changed(path, lambda c: c["progress"].update(seconds=-1.0)),
        lambda path: changed(path, lambda c: c["progress"]["epochs"][0].update(epoch=7)),
        lambda path: changed(path, lambda c: c["progress"]["epochs"][0].update(ema_top1="best")),
        lambda path: changed(path, lambda c: c["settings"]["recipe"].update(lr=torch.ones(2))),
        lambda path: changed(path, lambda c: c["progress"]["epochs"][0].pop("loss")),
        lambda path: changed(
            path, lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.ones(3))
        ),
    ],
)
def test_damaged(started: Path, damage: Callable[[Path], object]) -> None:
    damage(started / "last.pth")
    with pytest.raises(UserError, match=r"last.pth: is damaged") as error:
        train(started, FULL, resume=True)
    assert "\n" not in str(error.value)


def test_the_optimizers_settings_are_those_of_the_run(started: Path, tmp_path: Path) -> None:
    def damage(content: dict[str, Any]) -> None:
        for group in content["optimizer"]["param_groups"]:
            group.update(momentum="x", weight_decay=5.0, maximize=True)

    changed(started / "last.pth", damage)
    train(started, FULL, resume=True)
    train(tmp_path / "whole", FULL)
    assert_same_run(started, tmp_path / "whole")


def test_a_setting_of_any_length_is_said_in_short(started: Path) -> None:
    changed(started / "last.pth", lambda c: c["settings"]["recipe"].update(lr="x" * 10_000))
    with pytest.raises(UserError, match=r"recipe.lr xxx") as error:
        train(started, FULL, resume=True)
    assert len(str(error.value)) < 1000


def test_best_is_gone(started: Path) -> None:
    (started / "best.pth").unlink()
    with pytest.raises(UserError, match=r"best.pth: no such file, and epoch 1.*put it back"):
        train(started, FULL, resume=True)


def test_steps_that_cannot_be_read(started: Path) -> None:
    (started / "steps.csv").unlink()
    (started / "steps.csv").mkdir()
    with pytest.raises(UserError, match=r"steps.csv: cannot be read"):
        train(started, FULL, resume=True)


def test_best_alone_is_no_run_to_go_on_with(started: Path) -> None:
    """As a disk that was full at the first last.pth leaves it."""
    (started / "last.pth").unlink()
    with pytest.raises(UserError, match=r"holds a best.pth, and no last.pth.*take it away"):
        train(started, FULL)


class Ending(TinyBatches):
    """Its workers end after two batches."""

    def __init__(self, end: Callable[[], None]) -> None:
        super().__init__(FULL)
        self.end = end

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        yield from islice(super().epoch(epoch, first), 2)
        self.end()
        raise WorkersEnded("a process has ended")


def test_a_signal_that_ends_workers_too(tmp_path: Path) -> None:
    """A system that stops a job signals all its processes."""
    train(tmp_path / "whole", FULL)
    folder = tmp_path / "run"
    with pytest.raises(Stopped) as stop:
        train(folder, FULL, batches=Ending(interrupt))
    assert stop.value.step == 2
    train(folder, FULL, resume=True)
    assert_same_run(folder, tmp_path / "whole")


def test_workers_that_end_without_a_signal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a process has ended"):
        train(tmp_path, FULL, batches=Ending(lambda: None))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"last.pth: no such file.*leave out --resume"):
        train(tmp_path / "new", FULL, resume=True)
    assert not (tmp_path / "new").exists()


def test_a_run_is_not_written_over(started: Path) -> None:
    before = {path.name: path.read_bytes() for path in started.iterdir()}
    with pytest.raises(UserError, match=r"holds a run already \(last.pth\).*--resume.*--out"):
        train(started, FULL)
    assert {path.name: path.read_bytes() for path in started.iterdir()} == before


def test_disk_full_at_a_checkpoint(
    started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sha256_file(started / "last.pth")
    with monkeypatch.context() as patch:

        def half(content: object, stream: Any) -> None:
            stream.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(torch, "save", half)
        with pytest.raises(UserError, match=r".pth: cannot be written: the disk is full"):
            train(started, FULL, resume=True)
    assert sha256_file(started / "last.pth") == before
    assert sorted(os.listdir(started)) == ["best.pth", "last.pth", "steps.csv", "train.json"]
    train(started, FULL, resume=True)
    train(tmp_path / "whole", FULL)
    assert (started / "steps.csv").read_bytes() == (tmp_path / "whole/steps.csv").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_disk_full_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"

    def fill() -> None:
        path.unlink()
        path.symlink_to("/dev/full")

    with pytest.raises(UserError, match=r"steps.csv: cannot be written: the disk is full"):
        train(tmp_path, FULL, observer=At(4, fill))
    assert torch.load(tmp_path / "last.pth", weights_only=True)["step"] == 3
