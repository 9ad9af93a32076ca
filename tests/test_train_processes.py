"""Several processes train as one does; where one stops, all stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from repvgg_deploy.errors import UserError
from repvgg_deploy.train.loop import check_recipe
from repvgg_deploy.train.processes import Launch, launched_rank, start

from .at_work import PATIENCE
from .training import train
from .training_process import DTYPE, EXACT, PLAIN

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def torchrun(count: int, *command: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a command in ``count`` processes, in the environment that torchrun gives."""
    shared = {
        **os.environ, "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        texts = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, out, err)
        for process, (out, err) in zip(started, texts, strict=True)
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """Where two processes have left their runs, and how these ended in each."""
    folder = tmp_path_factory.mktemp("two")
    for process in torchrun(2, "-m", "tests.training_process", str(folder)):
        assert process.returncode == 0, process.stderr
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process has left the same run."""
    folder = tmp_path_factory.mktemp("one")
    train(folder, EXACT, dtype=DTYPE)
    return folder


def last(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    content = torch.load(folder / "last.pth", weights_only=True)
    momenta = content["optimizer"]["state"]
    found = {key: content[key] for key in ("state_dict", "state_dict_ema")}
    return {**found, "momenta": {str(k): v["momentum_buffer"] for k, v in momenta.items()}}


def lines(folder: Path) -> list[list[float]]:
    rows = (folder / "steps.csv").read_text().splitlines()[1:]
    return [[float(value) for value in row.split(",")] for row in rows]


@pytest.mark.parametrize("run", ["exact", "signal"])
def test_two_processes_are_one(two: tuple[Path, list[dict[str, str]]], one: Path, run: str) -> None:
    """In float64, to what sums in another order come to. ``signal`` was interrupted in its second
    process and then resumed in both."""
    folder = two[0] / run
    expected, found = last(one), last(folder)
    for part, tensors in expected.items():
        assert found[part].keys() == tensors.keys()
        for key, tensor in tensors.items():  # weights, running statistics, their average
            torch.testing.assert_close(found[part][key], tensor, rtol=1e-9, atol=1e-11, msg=key)
    # Losses are looked at in float32.
    assert lines(folder) == [pytest.approx(line, rel=1e-6) for line in lines(one)]
    one_record, record = (json.loads((f / "train.json").read_text()) for f in (one, folder))
    for before, after in zip(one_record["epochs"], record["epochs"], strict=True):
        for name in ("val_loss", "val_top1", "ema_loss", "ema_top1"):
            assert after[name] == pytest.approx(before[name], rel=1e-6), name


def test_all_stop_where_one_does(two: tuple[Path, list[dict[str, str]]]) -> None:
    folder, ends = two
    for end in ends:
        assert end["exact"] == end["resumed"] == "done"
        assert end["signal"] == "Stopped: stopped after step 5"
        assert "the loss of step 5 is nan" in end["nan"]
        assert f"{folder}/nan/last.pth holds the run after step 3" in end["nan"]
    first, second = ends
    assert "No space left on device" in first["full"]
    assert second["full"].startswith("StoppedElsewhere")
    assert first["error"].startswith("StoppedElsewhere")
    assert second["error"] == "UserError: img.png: is damaged; take it out."
    assert torch.load(folder / "error" / "last.pth", weights_only=True)["step"] == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 9}, "--batch 9 cannot be divided among 2 processes"),
        ({"batch": 6, "mixup": 0.2}, "a process has 3"),
    ],
)
def test_parts_of_a_batch(changes: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_recipe(replace(PLAIN, **changes), world=2)


def test_the_count_is_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="torchrun has started 4 processes"):
        start(Launch("cpu", devices=2), "fp32")


def test_a_rank_that_is_not_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters set RANK for purposes of their own; such a run would say nothing."""
    monkeypatch.setenv("RANK", "1")
    assert launched_rank() == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    assert launched_rank() == 1


def test_the_others_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one was killed while it started."""

    def launch(fabric: object) -> None:
        raise dist.DistNetworkError("Broken pipe\nand frames of C++")

    monkeypatch.setattr("lightning_fabric.Fabric.launch", launch)
    with pytest.raises(UserError, match=r"the 2 processes .* or one has ended \(Broken pipe\)"):
        start(Launch("cpu", devices=2), "fp32")


def test_no_gpu_no_fp16() -> None:
    with pytest.raises(UserError, match="fp16 training needs a CUDA GPU"):
        start(Launch("cpu"), "fp16")
