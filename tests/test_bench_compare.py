"""bench --compare: change or noise on made-up samples, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repvgg_deploy.bench import bootstrap
from repvgg_deploy.bench.change import FASTER, FEW, SAME, SLOWER, UNDECIDED, verdict
from repvgg_deploy.bench.compare import compare
from repvgg_deploy.bench.record import BenchRecord, Failure
from repvgg_deploy.bench.stats import Ratio
from repvgg_deploy.errors import UserError
from repvgg_deploy.sidecar import write_json

from .bench_records import contest, record, samples
from .benchmarks.interval_coverage import autoregressive
from .conftest import Cli
from .helpers import GOLDEN


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Ratio(1.08, 1.06, 1.10), SLOWER),
        (Ratio(0.92, 0.90, 0.94), FASTER),
        (Ratio(1.00, 0.97, 1.03), SAME),
        (Ratio(1.02, 1.01, 1.03), SAME),  # a steady run may have drifted by as much
        (Ratio(1.05, 1.02, 1.08), UNDECIDED),  # not 1, and perhaps by no more than a drift
        (Ratio(0.95, 0.92, 0.98), UNDECIDED),
        (Ratio(1.01, 0.94, 1.08), UNDECIDED),
        (Ratio(1.30, 0.80, 1.90), UNDECIDED),
        (Ratio(2.00, None, None), FEW),
    ],
)
def test_verdicts(ratio: Ratio, expected: str) -> None:
    assert verdict(ratio) == expected


def test_change_and_noise() -> None:
    """Medians are exact, so the ratios are known: 1.1, 0.5, 1, and 1 with a spread of 60 %."""
    old = record(contest({"a": samples(2), "b": samples(4), "c": samples(1), "d": samples(1, 0.6)}))
    new = record(
        contest(
            {
                "d": samples(1, 0.6, seed=1),
                "c": samples(1, seed=1),
                "b": samples(2, seed=1),
                "a": samples(2.2, seed=1),
            }
        )
    )
    found = {one.label: one for one in compare(old, new).changes}
    assert {label: one.verdict for label, one in found.items()} == {
        "a": SLOWER, "b": FASTER, "c": SAME, "d": UNDECIDED,
    }  # fmt: skip
    assert found["a"].ratio.value == pytest.approx(1.1)
    assert found["b"].ratio.value == pytest.approx(0.5)
    assert (found["a"].old, found["a"].new) == (pytest.approx(2), pytest.approx(2.2))
    low, high = found["a"].ratio.low, found["a"].ratio.high
    assert low is not None and high is not None and 1.05 < low < 1.1 < high < 1.15


def test_a_run_against_itself_has_not_changed() -> None:
    whole = record(contest({"a": samples(2), "b": samples(1)}))
    assert {one.verdict for one in compare(whole, whole).changes} == {SAME}
    assert {one.ratio.value for one in compare(whole, whole).changes} == {1.0}


OLD = record(
    contest({"fused": samples(1), "unfused": samples(2)}),
    contest({"fused": samples(1)}, "onnxruntime-cuda"),
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cpu": "another CPU"}, "the CPU was a CPU and is another CPU"),
        ({"cores": 4}, "the number of cores was 8 and is 4"),
        ({"threads": 1}, "the number of threads was 4 and is 1"),
        ({"governor": "powersave"}, "the governor was performance and is powersave"),
    ],
)
def test_another_machine_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compare(OLD, dataclasses.replace(OLD, environment={**OLD.environment, **changes}))


def test_another_scenario_is_refused() -> None:
    with pytest.raises(UserError, match="the old run is of latency and the new one of server"):
        compare(OLD, dataclasses.replace(OLD, scenario="server"))


def test_what_a_machine_did_not_tell_is_no_difference() -> None:
    unknown = dataclasses.replace(OLD, environment={"cpu": "a CPU", "governor": None})
    assert len(compare(OLD, unknown).changes) == 3
    assert len(compare(unknown, OLD).changes) == 3


@pytest.mark.parametrize(
    ("changes", "reason", "left"),
    [
        ({"gpu": "another GPU"}, "the GPU was a GPU and is another GPU", "torch-cpu"),
        ({"driver_cuda": "12.8"}, "the CUDA version of the driver was 13.0", "torch-cpu"),
        ({"packages": {"torch": "2.9", "onnxruntime": "1.24"}}, "the onnxruntime was 1.23 and is "
         "1.24", "torch-cpu"),
        ({"packages": {"torch": "2.8", "onnxruntime": "1.23"}}, "the torch was 2.9", 
         "onnxruntime-cuda"),
        ({"packages": "all"}, None, None),
    ],
)  # fmt: skip
def test_another_runtime_is_said_of_its_subjects(
    changes: dict[str, Any], reason: str | None, left: str | None
) -> None:
    found = compare(OLD, dataclasses.replace(OLD, environment={**OLD.environment, **changes}))
    if reason is None:
        assert (len(found.changes), found.skipped) == (3, [])
        return
    assert [reason in one.reason for one in found.skipped] == [True]
    assert {one.runtime for one in found.changes} == {left}


def test_another_subject_is_said_of_it() -> None:
    new = dataclasses.replace(
        OLD,
        subjects=[
            dataclasses.replace(OLD.subjects[0], image_size=(192, 256)),
            dataclasses.replace(OLD.subjects[1], precision="fp16"),
        ],
    )
    with pytest.raises(UserError, match="nothing of the two runs can be compared") as error:
        compare(OLD, new)
    assert "the image size was 224x224 and is 192x256" in str(error.value)
    assert "the precision was fp32 and is fp16" in str(error.value)


def test_runs_that_share_nothing() -> None:
    others = [dataclasses.replace(one, batch=one.batch + 1000) for one in OLD.contests]
    new = dataclasses.replace(OLD, contests=others)
    with pytest.raises(UserError, match="no runtime at the same batch size is in both"):
        compare(OLD, new)


def test_what_only_one_run_has() -> None:
    seconds = {"a": samples(1), "b": samples(1)}
    old = record(
        contest({**seconds, "c": samples(1)}),
        contest(seconds, batch=8),
        contest(seconds, batch=32, doubts=["a drifted"]),
    )
    new = record(
        contest({"a": samples(1), "d": samples(1)}, failures=[Failure("b", "MemoryError: no")]),
        contest(seconds, batch=32),
        contest(seconds, batch=64),
    )
    found = compare(old, new)
    assert [(one.batch, one.label) for one in found.changes] == [(1, "a")]
    assert {(one.batch, one.label): one.reason for one in found.skipped} == {
        (1, "b"): "it failed in the new run: MemoryError: no",
        (1, "c"): "only the old run has it",
        (1, "d"): "only the new run has it",
        (8, None): "only the old run has it",
        (32, None): "the old run is unreliable: a drifted",
        (64, None): "only the new run has it",
    }


def test_unreliable_runs_are_refused() -> None:
    bad = record(contest({"a": samples(1)}, doubts=["a drifted", "the machine was busy"]))
    fine = record(contest({"a": samples(1)}))
    with pytest.raises(UserError, match="the new run is unreliable: a drifted; the machine was"):
        compare(fine, bad)


def test_runs_of_the_server_scenario_are_refused() -> None:
    served = record(scenario="server")
    with pytest.raises(UserError, match="server scenario hold rates, and no times of a step"):
        compare(served, served)


def test_empty_runs_are_refused() -> None:
    with pytest.raises(UserError, match="no runtime at the same batch size is in both"):
        compare(record(), record())


def test_notes_on_what_else_differs() -> None:
    old = record(contest({"a": samples(1), "b": samples(1)}))
    other = [dataclasses.replace(old.subjects[0], sha256="cd"), old.subjects[1]]
    new = record(
        contest({"a": samples(2), "b": samples(2)}), subjects=other, architecture="RepVGG-B0"
    )
    assert compare(old, new).notes == [
        "the network was RepVGG-A0 and is RepVGG-B0",
        "a: is not the same file in both runs",
        "torch-cpu, batch 1: everything takes 2.00 to 2.00 times as long; none is shown to have "
        "moved against the baseline, so it is rather the machine",
    ]
    assert compare(old, old).notes == []


def files(folder: Path, old: BenchRecord, new: BenchRecord) -> tuple[Path, Path]:
    write_json(folder / "old.json", old)
    write_json(folder / "new.json", new)
    return folder / "old.json", folder / "new.json"


def run_of(median: float, spread: float = 0.01, rounds: int = 60, seed: int = 0) -> BenchRecord:
    fixed = samples(1, seed=seed)[:rounds]
    return record(contest({"fused": samples(median, spread, rounds, seed), "other": fixed}))


@pytest.mark.parametrize(
    ("new", "code", "said"),
    [
        (run_of(1.0, seed=1), 0, "no change above 3%"),
        (run_of(0.8, seed=1), 0, "faster"),
        (run_of(1.04, seed=1), 0, "slower"),  # by less than the limit
        (run_of(1.2, seed=1), 3, "slower by more than 5%: 1 of 2; the worst is fused on torch-cpu"),
        (run_of(1.06, 0.6, seed=1), 0, "undecided at 3%"),  # not shown
        (run_of(1.2, rounds=4), 1, "--fail-if-slower: 2 could not be judged, the first is fused"),
    ],
)
def test_fail_if_slower(cli: Cli, tmp_path: Path, new: BenchRecord, code: int, said: str) -> None:
    result = cli("bench", "--compare", *files(tmp_path, run_of(1.0), new), "--fail-if-slower", "5%")
    assert result.code == code
    assert said in result.err
    assert "Traceback" not in result.err


def whole(**medians: float) -> BenchRecord:
    """One contest; the samples of each subject have noise of their own."""
    return record(
        contest({label: samples(x, seed=ord(label)) for label, x in medians.items()}),
    )


@pytest.mark.parametrize(
    ("new", "code", "said"),
    [
        (whole(a=1.4, b=1.4, c=1.4), 1, "the first is a on torch-cpu, batch 1 (all subjects there"),
        (whole(a=1.4, b=1.4, c=1.6), 3, "1 of 3; the worst is c on torch-cpu, batch 1: 1.6"),
        (whole(a=1.2, b=1.2, c=1.0), 3, "2 of 3"),  # c shows that it is not the machine
        (whole(a=1.2, b=1.0, c=1.0), 3, "1 of 3; the worst is a"),  # the baseline alone
        (whole(a=0.5, b=1.0, c=1.0), 0, ""),  # slower than the baseline, and not slower
        (whole(a=0.5, b=0.5, c=0.6), 0, ""),
    ],
)
def test_the_machine_is_not_the_network(
    cli: Cli, tmp_path: Path, new: BenchRecord, code: int, said: str
) -> None:
    paths = files(tmp_path, whole(a=1.0, b=1.0, c=1.0), new)
    result = cli("bench", "--compare", *paths, "--fail-if-slower", "5%")
    assert result.code == code, result.err
    assert said in result.err


def test_what_moved_against_the_baseline_is_named() -> None:
    found = compare(whole(a=1.0, b=1.0, c=1.0), whole(a=1.4, b=1.4, c=1.6))
    assert found.notes == [
        "torch-cpu, batch 1: everything takes 1.40 to 1.60 times as long; against the baseline, c "
        "moved too"
    ]
    assert [one.verdict for one in found.changes] == ["slower, as all are"] * 3
    baseline, same, moved = (one.relative for one in found.changes)
    assert baseline is None
    assert same is not None and same.value == pytest.approx(1)
    assert moved is not None and moved.value == pytest.approx(1.6 / 1.4)


def test_without_the_baseline_there_is_nothing_to_hold_against() -> None:
    new = record(contest({"b": samples(2), "c": samples(2)}))
    found = compare(record(contest({"a": samples(1), "b": samples(1), "c": samples(1)})), new)
    assert [one.relative for one in found.changes] == [None, None]
    assert found.notes[0].endswith("everything takes 2.00 to 2.00 times as long; it may be the "
                                   "machine")  # fmt: skip


def repeated(run: Callable[[], tuple[list[float], ...]], limit: float) -> tuple[int, int]:
    """Of 100 pairs of runs of equal speed: those called faster or slower, and above ``limit``."""
    called = failed = 0
    for _ in range(100):
        old, new = (record(contest({f"{i}": one for i, one in enumerate(run())})) for _ in range(2))
        found = compare(old, new)
        called += any(one.verdict in (FASTER, SLOWER) for one in found.changes)
        failed += bool(found.slower_than(limit))
    return called, failed


def test_noise_that_lasts_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """AR(1) of 0.9, 5 %, in 200 rounds: half of the runs were called changed."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng = np.random.default_rng(4)

    def run() -> tuple[list[float], ...]:
        return (autoregressive(rng, 200, 0.9, 0.05 * (1 - 0.9**2) ** 0.5)[0].tolist(),)

    called, failed = repeated(run, 0.05)
    assert called <= 5
    assert failed <= 1


def test_a_whole_run_that_is_slower_is_no_slower_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 % (one standard deviation) from run to run, 2 % within, three subjects."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng = np.random.default_rng(4)

    def run() -> tuple[list[float], ...]:
        offset = rng.lognormal(0, 0.03)
        return tuple((offset * rng.lognormal(0, 0.02, 60)).tolist() for _ in range(3))

    called, failed = repeated(run, 0.05)
    assert called <= 5
    assert failed == 0


def with_clock(megahertz: Any, runtime: str = "torch-cuda") -> BenchRecord:
    conditions = {"gpu": {"sm_clock": {"minimum": 1, "median": megahertz, "maximum": 9999.0}}}
    return record(contest({"a": samples(1)}, runtime, conditions=conditions))


def test_other_gpu_clocks_are_refused() -> None:
    with pytest.raises(UserError, match="SM clock was 1980 MHz and is 1410 MHz"):
        compare(with_clock(1980.0), with_clock(1410.0))
    with pytest.raises(UserError, match="SM clock was 1410 MHz and is 1980 MHz"):
        compare(with_clock(1410.0), with_clock(1980.0))
    assert compare(with_clock(1980.0), with_clock(1935.0)).changes  # 2.3 %
    assert compare(with_clock(1980.0, "torch-cpu"), with_clock(1410.0, "torch-cpu")).changes


@pytest.mark.parametrize("told", [None, "fast", True, 0, -5, 1e300, {"a": 1}])
def test_a_clock_that_one_run_does_not_know_is_no_difference(told: Any) -> None:
    assert compare(with_clock(1980.0), with_clock(told)).changes
    assert compare(with_clock(told), with_clock(1980.0)).changes


def test_what_is_missing_does_not_pass(cli: Cli, tmp_path: Path) -> None:
    """A network that crashed in CI is not a network that got no slower."""
    broken = record(contest({"other": samples(1)}, failures=[Failure("fused", "RuntimeError: x")]))
    arguments = ("bench", "--compare", *files(tmp_path, run_of(1.0), broken))
    assert cli(*arguments).code == 0
    result = cli(*arguments, "--fail-if-slower", "5%")
    assert result.code == 1
    assert "fused on torch-cpu, batch 1 (it failed in the new run: RuntimeError: x)" in result.err


def test_the_table_and_the_json(cli: Cli, tmp_path: Path) -> None:
    paths = files(tmp_path, run_of(1.0), run_of(1.2, seed=1))
    result = cli("bench", "--compare", *paths, "--json")
    assert result.code == 0
    fused, other = json.loads(result.out)["changes"]
    assert (fused["label"], fused["verdict"], other["verdict"]) == ("fused", SLOWER, SAME)
    ratio = fused["ratio"]
    cell = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    (line,) = (line for line in result.err.splitlines() if "fused" in line)
    assert line.split()[:5] == ["torch-cpu", "fused", "1", "1000.000", "1200.000"]
    assert cell in line
    assert line.endswith("slower")


def test_what_a_file_says_cannot_pass_for_a_line_of_ours(cli: Cli, tmp_path: Path) -> None:
    evil = "x\nnot compared: \x1b[2J"
    bad = record(contest({evil: samples(1)}), contest({evil: samples(1)}, evil))
    result = cli("bench", "--compare", *files(tmp_path, bad, record(contest({evil: samples(1)}))))
    assert result.code == 0
    assert "\x1b" not in result.err
    assert len(result.err.splitlines()) == 5


def test_old_files_are_compared(cli: Cli) -> None:
    result = cli("bench", "--compare", GOLDEN / "bench-1.json", GOLDEN / "bench-1.json")
    assert result.code == 0, result.err
    assert result.err.count("too few independent samples") == 3  # five rounds at batch 2


@pytest.mark.parametrize("limit", ["5", "%", "-5%", "nan%", "2.9%", "1001%", "5 %", "5%%", "1e1%"])
def test_limits_that_are_none(cli: Cli, tmp_path: Path, limit: str) -> None:
    paths = files(tmp_path, run_of(1.0), run_of(1.0))
    result = cli("bench", "--compare", *paths, f"--fail-if-slower={limit}")
    assert result.code == 2
    assert "is no percentage from 3% to 1000%, such as 5%" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail-if-slower", "5%"], "--fail-if-slower needs --compare OLD NEW"),
        (["--compare", "a", "b", "--batch", "1"], "--batch has no effect with --compare"),
        (["--compare", "a", "b", "--engines", "e"], "--engines has no effect with --compare"),
        (["--compare", "a"], "requires 2 arguments"),
    ],
)
def test_options_without_effect_are_refused(cli: Cli, arguments: list[str], said: str) -> None:
    result = cli("bench", *arguments)
    assert result.code == 2
    assert said in result.err


def test_files_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    missing = cli("bench", "--compare", "none.json", "bad.json")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "none.json: no such file" in missing.err
    bad = cli("bench", "--compare", "bad.json", "bad.json")
    assert bad.code == 1
    assert "bad.json: has schema None" in bad.err
