"""The four answers at the top of a report, in a sentence or two each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...sqnr import from_json, sqnr_text
from ..text import count_text
from .values import integer, milliseconds, percent, points, times

if TYPE_CHECKING:
    from ...steps.lineage.record import Accuracy, Report, Speed, Timing

Mood = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Answer:
    """``mood``: good, bad, or open where something is left to do."""

    question: str
    short: str
    text: str
    mood: Mood


def summarize(report: Report) -> list[Answer]:
    """What was deployed, was every step proved, how much faster, how accurate."""
    return [_deployed(report), _proved(report), _faster(report), _accurate(report)]


def _deployed(report: Report) -> Answer:
    made = [file for file in report.files if file.kind in ("engine", "ONNX model") and file.source]
    forms = sorted({file.precision for file in made if file.precision})
    what = count_text(sum(file.kind == "engine" for file in made), "engine")
    graphs = count_text(sum(file.kind == "ONNX model" for file in made), "ONNX model")
    text = f"{graphs} and {what} from one checkpoint"
    text += f", in {', '.join(forms)}." if forms else "."
    broken = report.broken
    if broken:
        names = ", ".join(Path(file.name).name for file in broken)
        text += f" Not as recorded: {names}."
    short = f"{count_text(len(report.files), 'file')}, " + (
        "all as recorded" if not broken else f"{len(broken)} NOT as recorded"
    )
    return Answer("What was deployed?", short, text, "bad" if broken else "good")


def _proved(report: Report) -> Answer:
    question = "Was every step proved?"
    counted = [proof for proof in report.proofs if proof.verdict != "nothing to prove"]
    proved = sum(proof.verdict == "proved" for proof in counted)
    failed = [proof for proof in counted if proof.verdict == "failed"]
    short = f"{proved} of {count_text(len(counted), 'step')} proved"
    ratios = [one.ratio for proof in counted for one in proof.compared if one.ratio is not None]
    text = (
        f"The largest error is {max(ratios):.2g} times the reference's own rounding error."
        if ratios
        else "No error ratio is recorded."
    )
    compared = [Path(proof.target).name for proof in report.proofs if proof.truth is not None]
    text += (
        f" Compared with recorded outputs of your own model: {', '.join(compared)}."
        if compared
        else " The architecture was read off the file, not compared with your own model (--truth)."
    )
    if failed:
        names = ", ".join(Path(proof.target).name for proof in failed)
        return Answer(question, short, f"FAILED: {names}. {text}", "bad")
    left = [proof for proof in counted if proof.verdict == "not proved"]
    if left:
        why = "; ".join(sorted({proof.detail for proof in left}))
        return Answer(question, short, f"{text} Not proved: {len(left)} ({why}).", "open")
    return Answer(question, short, text, "good")


def _faster(report: Report) -> Answer:
    question = "How much faster?"
    speed = report.speed
    if speed is None or not speed.timings:
        return Answer(question, "not measured", "Run repvgg-deploy bench.", "open")
    best = max(speed.timings, key=lambda one: one.images_per_second)
    fastest = (
        f"Most images a second: {integer(best.images_per_second)}, {best.label} on {best.runtime} "
        f"at batch {best.batch} ({milliseconds(best.median)} ms)."
    )
    alike = [one for one in speed.timings if one.kind == "fused" and one.precision == "fp32"]
    held = [one for one in alike if one.ratio is not None]  # other precisions gain by those too
    fused = [one for one in held if one.ratio_interval is not None]
    if not fused:
        short = "too few samples to say" if held else "no comparison with unfused"
        return Answer(question, short, f"{fastest}{_trust(speed)}", "open")
    shown = sum(one.ratio_interval is not None and one.ratio_interval[0] > 1 for one in fused)
    few = len(held) - len(fused)
    text = (
        f"Fused in fp32 against {speed.baseline or 'the baseline'} in "
        f"{count_text(len(fused), 'contest')}; the 95 % interval is above 1 in {shown} of them"
        f"{f'; {few} more had too few samples' if few else ''}. {fastest}{_trust(speed)}"
    )
    doubtful = bool(speed.outdated or speed.doubts)
    mood: Mood = "bad" if doubtful else "good" if shown == len(fused) else "open"
    return Answer(question, _span(fused), text, mood)


def _span(fused: Sequence[Timing]) -> str:
    ratios = [one.ratio for one in fused if one.ratio is not None]
    low, high = times(min(ratios)), times(max(ratios))
    return low if low == high else f"{low} to {high}"


def _trust(speed: Speed) -> str:
    text = ""
    if speed.outdated:
        text += f" Measured files that have changed since: {', '.join(speed.outdated)}."
    if speed.doubts:
        text += f" {count_text(len(speed.doubts), 'doubt')} about the times."
    return text


def _accurate(report: Report) -> Answer:
    question = "How accurate?"
    if report.evaluation is not None and (answer := _evaluated(question, report)):
        return answer
    likeness = [proof.likeness for proof in report.proofs if proof.likeness is not None]
    if not likeness:
        text = "Run repvgg-deploy evaluate."
        return Answer(question, "not measured", text, "open")
    one = likeness[0]
    if one.agreement is None:
        return Answer(question, sqnr_text(from_json(one.sqnr_db)), "int8 against float.", "good")
    drop = "" if one.top1_drop is None else f", top-1 {points(-one.top1_drop / 100)} points"
    text = f"int8 against float on {count_text(one.samples, 'image')}{drop}."
    return Answer(question, f"{percent(one.agreement)} agreement", text, "good")


def _evaluated(question: str, report: Report) -> Answer | None:
    assert report.evaluation is not None  # _accurate
    scored = [one for one in report.evaluation.networks if one.top1 is not None]
    if not scored:
        return None
    top1 = [one.top1.value for one in scored if one.top1 is not None]
    worst = min(scored, key=_difference)
    low, high = percent(min(top1)), percent(max(top1))
    short = f"top-1 {low}" if low == high else f"top-1 {low} to {high}"
    text = f"On {integer(report.evaluation.samples)} labelled images."
    if worst.difference is not None and worst is not scored[0]:
        text += (
            f" Furthest from {Path(scored[0].name).name}: {worst.name}, "
            f"{points(worst.difference.value)} points."
        )
    return Answer(question, short, text, "good")


def _difference(one: Accuracy) -> float:
    return 0.0 if one.difference is None else one.difference.value
