"""What bench has measured is kept, whatever comes after; and it replaces nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repvgg_deploy.bench.roofline import ceilings
from repvgg_deploy.bench.roofline.peaks import Peaks
from repvgg_deploy.errors import UserError
from repvgg_deploy.steps import bench_engines

from .bench_runs import QUICK, RECORD, TORCH, measured
from .conftest import Cli

SHORT = ("--duration", "0.1", "--threads", "1", "--size", "32", *TORCH)


def raising(error: BaseException) -> Callable[..., Peaks]:
    def measure_peaks(device: str, threads: int) -> Peaks:
        raise error

    return measure_peaks


@pytest.fixture
def fused(cli: Cli, checkpoint: Path) -> Cli:
    assert cli("fuse", checkpoint).code == 0
    return cli


@pytest.mark.parametrize("path", ["notes.txt", "notes.txt/bench.json"])
def test_what_is_no_record_is_not_replaced(fused: Cli, path: str) -> None:
    """Told before anything is measured."""
    Path("notes.txt").write_text("mine")
    result = fused("bench", "ckpt.pth", *SHORT, "--output", path)
    assert result.code == 1
    assert "notes.txt: " in result.err
    assert "median" not in result.err
    assert Path("notes.txt").read_text() == "mine"


def test_a_record_is_replaced_by_the_next(fused: Cli) -> None:
    for seed in (1, 2):
        command = ("bench", "ckpt.pth", *SHORT, *QUICK, "--seed", seed, "--output", "bench.json")
        assert fused(*command).code == 0
        assert json.loads(Path("bench.json").read_text())["settings"]["seed"] == seed


def test_ctrl_c_amid_the_ceilings_keeps_the_times(
    fused: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "measure_peaks", raising(KeyboardInterrupt()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fused("bench", *SHORT).code == 130
    data = json.loads(RECORD.read_text())
    assert len(measured(data["contests"][0])) == 3
    assert "interrupted by Ctrl-C: this is what was measured until then" in data["notes"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no such kernel")])
def test_ceilings_that_cannot_be_measured_are_a_note(
    fused: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ceilings, "measure_peaks", raising(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = fused("bench", *SHORT)
    assert result.code == 0, result.err
    why = str(error) or "out of memory"
    assert f"note: ceilings: they cannot be measured here: {why}" in result.err


def test_ceilings_that_cannot_be_kept_are_used_all_the_same(
    fused: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("cache").write_text("a file where a folder is needed")
    peaks = Peaks({"fp32": 1e9}, 1e12, 1.0)
    monkeypatch.setattr(ceilings, "measure_peaks", lambda device, threads: peaks)
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    result = fused("bench", *SHORT)
    assert result.code == 0, result.err
    assert "they are measured anew each time" in result.err
    assert len(json.loads(RECORD.read_text())["rooflines"]) == 3


def test_an_engine_that_fails_keeps_the_times_of_the_networks(
    fused: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU to run engines on, so what they raise is scripted."""

    def run(self: bench_engines.EngineBench, *arguments: object) -> None:
        raise UserError("a.engine: holds nothing; export it again.")

    monkeypatch.setattr(bench_engines.EngineBench, "run", run)
    monkeypatch.setattr("repvgg_deploy.steps.bench.pick_runtimes", lambda asked: ["torch-cpu"])
    result = fused("bench", "--size", "32", *QUICK)
    assert result.code == 1
    assert "Error: a.engine: holds nothing; export it again." in result.err
    assert len(measured(json.loads(RECORD.read_text())["contests"][0])) == 3


def test_builds_of_no_engine_are_refused(fused: Cli) -> None:
    result = fused("bench", *SHORT, "--builds", 3)
    assert result.code == 1
    assert "--builds has no effect here: no engine can be measured" in result.err
