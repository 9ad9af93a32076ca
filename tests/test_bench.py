"""The benchmark's method on scripted times, and the step on a real tiny network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repvgg_deploy.bench.measure import measure
from repvgg_deploy.bench.stats import speedup, summarize

from .conftest import Cli


class FakeClock:
    """Time that only scripted steps move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, label: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(label)
            self.now += seconds

        return run


def test_steps_are_interleaved_and_timed() -> None:
    clock = FakeClock()
    steps = {label: clock.step(label, s) for label, s in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    shares: list[float] = []
    times = measure(steps, duration=18.0, clock=clock, progress=shares.append)
    assert "".join(clock.log) == "abcabccba"  # warm-up, then to and fro, 18 seconds in all
    assert times == {"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [3.0, 3.0]}
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_slow_steps_run_once_each_however_short_the_duration() -> None:
    clock = FakeClock()
    times = measure({"a": clock.step("a", 60.0), "b": clock.step("b", 90.0)}, 1.0, clock=clock)
    assert times == {"a": [60.0], "b": [90.0]}
    assert clock.log == ["a", "b", "a", "b"]


def test_warm_up_lasts_until_two_rounds_agree() -> None:
    clock = FakeClock()
    durations = iter([8.0, 4.0, 2.0, 2.1, *[2.0] * 20])

    def cooling_down() -> None:
        clock.now += next(durations)

    times = measure({"a": cooling_down}, duration=56.0, clock=clock)
    assert times["a"] == pytest.approx([2.0] * 20)  # none of 8, 4, 2, 2.1


def test_all_networks_have_the_same_number_of_samples() -> None:
    clock = FakeClock()
    times = measure({"a": clock.step("a", 1.0), "b": clock.step("b", 5.0)}, 31.0, clock=clock)
    assert len(times["a"]) == len(times["b"]) == 4


def test_a_step_that_fails_is_not_swallowed() -> None:
    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        measure({"a": fail}, 1.0)


def test_summary_by_hand() -> None:
    summary = summarize([float(i) for i in range(1, 101)])  # 1..100
    assert (summary.samples, summary.minimum, summary.maximum) == (100, 1.0, 100.0)
    assert summary.median == 50.5
    assert summary.p90 == pytest.approx(90.1)  # position 0.9 * 99 = 89.1 counted from 0
    assert summary.p99 == pytest.approx(99.01)


@pytest.mark.parametrize(("count", "p90", "p99"), [(9, False, False), (99, True, False)])
def test_percentiles_need_samples(count: int, p90: bool, p99: bool) -> None:
    summary = summarize([1.0] * count)
    assert (summary.p90 is not None) == p90
    assert (summary.p99 is not None) == p99


def test_speedup_of_constant_times_is_exact() -> None:
    ratio = speedup([3.0] * 6, [2.0] * 7)
    assert (ratio.value, ratio.low, ratio.high) == (1.5, 1.5, 1.5)


def test_few_samples_give_no_interval() -> None:
    ratio = speedup([3.0] * 5, [2.0] * 7)
    assert (ratio.value, ratio.low, ratio.high) == (1.5, None, None)


def test_the_interval_covers_the_true_ratio() -> None:
    """Two samples of one distribution: 95 % intervals hold 1 in at least 88 of 100 repetitions."""
    rng = np.random.default_rng(7)
    covered = 0
    for repetition in range(100):
        a, b = rng.lognormal(0, 0.2, (2, 60))
        ratio = speedup(list(a), list(b), resamples=400, seed=repetition)
        covered += ratio.low <= 1 <= ratio.high
    assert covered >= 88


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
