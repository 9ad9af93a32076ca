"""Why a network is no faster: every known cause in a case that has it, and in one that has not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from repvgg_deploy.bench.explain import explain
from repvgg_deploy.bench.operators import Operators, operators
from repvgg_deploy.bench.record import (
    BenchRecord,
    Contest,
    Drift,
    Explanation,
    Measured,
    Roofline,
    Subject,
)
from repvgg_deploy.bench.stats import Ratio, summarize
from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.baseline import fold_conv_bn
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.runners.onnx_optimized import optimized

from .helpers import randomized, tiny_spec

RUNTIME = "onnxruntime-cpu"
UNFUSED, FUSED = "unfused", "fused"
LEVEL = Ratio(1.0, 0.95, 1.05)
DRIFT = Drift(LEVEL, True)


def measured(
    label: str, seconds: float, ratio: Ratio | None = None, transfer: float | None = None
) -> Measured:
    moved = None if transfer is None else summarize([transfer] * 8)
    return Measured(label, [seconds] * 8, summarize([seconds] * 8), DRIFT, ratio, moved)


def contest(
    ratio: Ratio = LEVEL,
    *,
    batch: int = 1,
    seconds: float = 0.1,
    transfer: float | None = None,
    doubts: tuple[str, ...] = (),
) -> Contest:
    both = [measured(UNFUSED, seconds), measured(FUSED, seconds, ratio, transfer)]
    return Contest(RUNTIME, batch, UNFUSED, 0, 2, both, doubts=list(doubts))


def record(
    *contests: Contest,
    precision: str = "fp32",
    kind: str = "fused",
    lines: tuple[Roofline, ...] = (),
) -> BenchRecord:
    subjects = [
        Subject(UNFUSED, "unfused", "fp32", (32, 32)),
        Subject(FUSED, kind, precision, (32, 32)),
    ]
    held = list(contests) or [contest()]
    return BenchRecord(
        "bench", "latency", "m", None, None, {}, {}, subjects, held, rooflines=list(lines)
    )


def graphs(unfused: Operators, fused: Operators) -> dict[tuple[str, str], Operators]:
    return {(RUNTIME, UNFUSED): unfused, (RUNTIME, FUSED): fused}


def causes(found: list[Explanation]) -> list[str]:
    return [one.cause for one in found]


BRANCHES = graphs(Operators(12, 7, 7, 30), Operators(6, 0, 0, 10))


def test_nothing_to_explain() -> None:
    assert explain(record(contest(Ratio(1.2, 1.1, 1.3))), {}) == []
    assert explain(record(kind="reference"), {}) == [], "nobody said that it would be faster"
    alone = Contest(RUNTIME, 1, FUSED, 0, 2, [measured(FUSED, 0.1)])
    assert explain(record(alone), {}) == []
    failed = Contest(RUNTIME, 1, UNFUSED, 0, 2, [measured(FUSED, 0.1, LEVEL)])
    assert explain(record(failed), {}) == [], "the baseline gave no time"


@pytest.mark.parametrize("ratio", [LEVEL, Ratio(0.8, 0.7, 0.9), Ratio(1.0, 1.0, 1.0)])
def test_no_known_cause_says_what_it_could_not_see(ratio: Ratio) -> None:
    (found,) = explain(record(contest(ratio)), {})
    assert (found.runtime, found.batch, found.label) == (RUNTIME, 1, FUSED)
    assert found.cause == "no known cause"
    for blind in (f"the graphs that {RUNTIME} runs", "another batch size", "shares of the ceiling"):
        assert blind in found.text


def test_no_known_cause_with_all_in_sight() -> None:
    lines = (line(UNFUSED, 2.0, 0.8), line(FUSED, 1.0, 0.4))
    whole = record(contest(), contest(batch=8, seconds=0.8), lines=lines)
    found = explain(whole, BRANCHES)
    assert causes(found) == ["no known cause"] * 2
    assert found[0].text == "none of the known causes holds"


def test_merged_branches() -> None:
    same = graphs(Operators(6, 0, 0, 10), Operators(6, 0, 0, 10))
    (found,) = explain(record(), same)
    assert found.cause == "folded already"
    assert "6 convolutions of the baseline and 6 convolutions of this one" in found.text
    assert causes(explain(record(), BRANCHES)) == ["no known cause"]


def test_as_many_convolutions_but_norms_left() -> None:
    norms = graphs(Operators(6, 6, 0, 16), Operators(6, 0, 0, 10))
    assert causes(explain(record(), norms)) == ["no known cause"]


def test_norms_and_additions_folded_into_convolutions() -> None:
    folded = graphs(Operators(13, 0, 0, 16), Operators(6, 0, 0, 10))
    (found,) = explain(record(), folded)
    assert found.cause == "folded already" and "13 convolutions against 6 are all" in found.text


def test_int8_is_not_about_folding() -> None:
    same = graphs(Operators(6, 0, 0, 10), Operators(6, 0, 0, 10))
    assert causes(explain(record(precision="int8"), same)) == ["no known cause"]


@pytest.mark.parametrize("form", ["raw", "folded"])
def test_folding_as_onnx_runtime_does_it(form: str) -> None:
    """Every batch norm becomes a convolution, and additions go into convolutions."""
    train = randomized(RepVGG(tiny_spec(), "train"))
    assert isinstance(train, RepVGG)
    unfused = to_onnx(train if form == "raw" else fold_conv_bn(train), (32, 32))
    fused = to_onnx(RepVGG(tiny_spec(), "deploy").eval(), (32, 32))
    exported = graphs(operators(unfused), operators(fused))
    assert exported[RUNTIME, UNFUSED].convolutions == 12
    assert exported[RUNTIME, UNFUSED].norms == (13 if form == "raw" else 1)
    assert causes(explain(record(), exported)) == ["no known cause"]
    run = graphs(*(operators(optimized(m.SerializeToString())) for m in (unfused, fused)))
    assert run[RUNTIME, FUSED].convolutions == 6
    (found,) = explain(record(), run)
    assert found.cause == "folded already" and "against 6" in found.text


def test_a_runtime_that_merged_all_branches() -> None:
    """The exporter folded: what was to be the unfused graph is the fused one."""
    fused = to_onnx(RepVGG(tiny_spec(), "deploy").eval(), (32, 32)).SerializeToString()
    run = operators(optimized(fused))
    (found,) = explain(record(), graphs(run, run))
    assert found.cause == "folded already" and "its branches had been folded" in found.text


def test_onnx_runtime_refuses(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        optimized(broken)
    with pytest.raises(UserError, match="the model: ONNX Runtime cannot load it"):
        optimized(b"no model")


def test_launch_bound_by_batches() -> None:
    hardly = record(contest(seconds=0.1), contest(batch=8, seconds=0.12))
    found = explain(hardly, {})
    assert causes(found) == ["launch-bound"] * 2, "the larger batch is bound as well"
    assert "batch 8 takes 1.20 times as long as batch 1" in found[0].text
    work = record(contest(seconds=0.1), contest(batch=8, seconds=0.7))
    assert causes(explain(work, {})) == ["no known cause"] * 2


def test_the_next_larger_batch_counts() -> None:
    """From 1 to 8 it is launching, from 8 to 64 it is work."""
    three = [contest(batch=b, seconds=s) for b, s in ((64, 0.9), (1, 0.1), (8, 0.12))]
    found = {one.batch: one.cause for one in explain(record(*three), {})}
    assert found == {1: "launch-bound", 8: "no known cause", 64: "no known cause"}


def test_other_runtimes_do_not_count() -> None:
    other = replace(contest(batch=8, seconds=0.1), runtime="torch-cpu")
    assert causes(explain(record(contest(), other), {})) == ["no known cause"] * 2


def test_launch_bound_by_operators() -> None:
    (found,) = explain(record(contest(seconds=50e-6)), BRANCHES)
    assert found.cause == "launch-bound" and "5.0 us on average" in found.text
    assert causes(explain(record(contest(seconds=200e-6)), BRANCHES)) == ["no known cause"]


def test_dominated_by_data() -> None:
    (found,) = explain(record(contest(seconds=0.1, transfer=0.3)), {})
    assert found.cause == "data" and "75%" in found.text
    assert causes(explain(record(contest(seconds=0.1, transfer=0.05)), {})) == ["no known cause"]


def test_another_precision() -> None:
    swapped = record(precision="fp32")
    narrow = replace(swapped.subjects[0], precision="fp16")
    (found,) = explain(replace(swapped, subjects=[narrow, swapped.subjects[1]]), {})
    assert found.cause == "precision" and "in fp32, and the baseline in fp16" in found.text
    assert causes(explain(record(precision="fp16"), {})) == ["no known cause"], "that is no reason"


def test_another_clock() -> None:
    unsteady = "the GPU's clock was not steady: 900 to 1400 MHz"
    (found,) = explain(record(contest(doubts=(unsteady, "results differ"))), {})
    assert (found.cause, found.text) == ("clock", unsteady)
    assert causes(explain(record(contest(doubts=("results differ",))), {})) == ["no known cause"]


def line(label: str, ceiling: float, share: float, bound: str = "arithmetic") -> Roofline:
    return Roofline(RUNTIME, 1, label, 10, 10, ceiling, share, bound)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ((line(UNFUSED, 1.0, 0.7), line(FUSED, 0.9, 0.65)), "ceiling"),
        ((line(UNFUSED, 1.0, 0.2), line(FUSED, 0.9, 0.2)), "no known cause"),
        ((line(UNFUSED, 1.0, 0.7), line(FUSED, 0.5, 0.35)), "no known cause"),
        ((line(UNFUSED, 1.0, 0.7, "bytes"), line(FUSED, 0.9, 0.65)), "no known cause"),
        ((line(UNFUSED, 1.0, 0.7),), "no known cause"),
    ],
    ids=["near", "far", "lowered", "another bound", "unknown"],
)
def test_a_ceiling_that_fusing_does_not_change(lines: tuple[Roofline, ...], cause: str) -> None:
    (found,) = explain(record(lines=lines), {})
    assert found.cause == cause
    if cause == "ceiling":
        assert "reaches 70% of what arithmetic allows" in found.text and "90%" in found.text


def test_too_few_samples() -> None:
    (found,) = explain(record(contest(Ratio(1.4, None, None))), {})
    assert found.cause == "few samples" and found.text.startswith("8 samples")


def test_several_causes_hold_at_once() -> None:
    both = contest(seconds=50e-6, transfer=0.1)
    same: Mapping[tuple[str, str], Operators] = graphs(*[Operators(6, 0, 0, 10)] * 2)
    assert causes(explain(record(both), same)) == ["folded already", "launch-bound", "data"]


@pytest.mark.parametrize(("high", "hidden"), [(1.09, False), (1.3, True)])
def test_noise_that_a_difference_may_hide_in(high: float, hidden: bool) -> None:
    (found,) = explain(record(contest(Ratio(1.15, 0.9, high))), {})
    assert (found.cause == "noise") == hidden
    if hidden:
        assert "the interval reaches from 0.90x to 1.30x: measure longer" in found.text
