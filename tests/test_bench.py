"""bench on a real tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repvgg_deploy.bench.roofline import ceilings
from repvgg_deploy.bench.roofline.peaks import Peaks

from .conftest import Cli


def test_bench_measures_all_three_networks(cli: Cli, checkpoint: Path) -> None:
    assert cli("fuse", checkpoint).code == 0
    assert cli("export", "--onnx", "--size", "32").code == 0
    runtimes = ("--runtime", "torch-cpu", "--runtime", "onnxruntime-cpu")
    result = cli(
        "bench",
        "--batch",
        "1,2",
        "--duration",
        "0.3",
        "--threads",
        "1",
        "--no-roofline",
        "--json",
        *runtimes,
    )
    assert result.code == 0, result.err
    data = json.loads(result.out)
    labels = {"unfused", "unfused, conv-BN folded", "fused"}
    assert {subject["label"] for subject in data["subjects"]} == labels
    assert {tuple(subject["image_size"]) for subject in data["subjects"]} == {(32, 32)}
    seen = {(c["runtime"], c["batch"]) for c in data["contests"]}
    assert seen == {(r, b) for r in ("torch-cpu", "onnxruntime-cpu") for b in (1, 2)}
    for contest in data["contests"]:
        assert contest["baseline"] == "unfused"
        assert contest["failures"] == []
        assert not [doubt for doubt in contest["doubts"] if "results differ" in doubt]
        assert {one["label"] for one in contest["measured"]} == labels
        for one in contest["measured"]:
            assert one["summary"]["samples"] == len(one["seconds"]) > 0
            assert (one["ratio"] is None) == (one["label"] == "unfused")
    assert data["environment"]["threads"] == 1
    assert data == json.loads(Path("engines/ckpt/bench.json").read_text())
    assert "faster by" in result.err
    assert "proof: passed" in result.err
    assert "fused: ONNX runtimes run fp32.onnx, which export left" in result.err


def test_bench_needs_the_checkpoint_as_it_was(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    gone = cli("bench", "--duration", "0.1", "--size", "32", "--no-roofline")
    assert gone.code == 1
    assert "is gone" in gone.err
    import torch

    from .helpers import training_state

    torch.save(training_state(seed=9), checkpoint)
    changed = cli("bench", "--duration", "0.1", "--size", "32", "--no-roofline")
    assert changed.code == 1
    assert "has changed since fused.safetensors was made from it" in changed.err
    checkpoint.write_bytes(content)
    assert (
        cli(
            "bench", "--duration", "0.1", "--size", "32", "--no-roofline", "--runtime", "torch-cpu"
        ).code
        == 0
    )


def test_bench_of_an_already_fused_checkpoint_says_what_is_missing(cli: Cli) -> None:
    from .helpers import golden

    assert cli("fuse", golden("official_deployed")).code == 0
    result = cli(
        "bench", "--duration", "0.1", "--size", "32", "--no-roofline", "--runtime", "torch-cpu"
    )
    assert result.code == 0
    assert "there is no unfused network to compare" in result.err


def test_a_runtime_that_is_not_here(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cli("fuse", checkpoint)
    result = cli("bench", "--runtime", "torch-cuda")
    assert result.code == 1
    assert "torch-cuda: not usable here; usable are torch-cpu" in result.err


@pytest.mark.parametrize("granted", [1.0, 0.5])
def test_shares_of_a_ceiling_that_can_be_trusted(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: float
) -> None:
    """Peaks are scripted: measuring them takes ten seconds and an idle machine."""
    peaks = Peaks({"fp32": 1e9}, 1e12, granted)
    monkeypatch.setattr(ceilings, "measure_peaks", lambda device, threads: peaks)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cli("fuse", checkpoint).code == 0
    result = cli("bench", "--duration", "0.1", "--size", "32", "--runtime", "torch-cpu")
    assert result.code == 0, result.err
    data = json.loads(Path("engines/ckpt/bench.json").read_text())
    if granted < 0.9:
        assert data["rooflines"] == []
        assert "the threads ran for 50% of the time" in result.err
        assert "no share of them is given" in result.err
        return
    (contest,) = data["contests"]
    medians = {one["label"]: one["summary"]["median"] for one in contest["measured"]}
    assert {line["label"] for line in data["rooflines"]} == set(medians)
    for line in data["rooflines"]:
        assert line["bound"] == "arithmetic"
        assert line["ceiling_seconds"] == pytest.approx(line["macs"] / 1e9)
        assert line["share"] == pytest.approx(line["ceiling_seconds"] / medians[line["label"]])
    assert "share of this device's ceiling: unfused " in result.err
