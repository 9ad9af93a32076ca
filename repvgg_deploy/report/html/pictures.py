"""The plots of a report, each from its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .plots import Dot, Row, dots
from .roof import Point, roofline
from .training import learning_curves

if TYPE_CHECKING:
    from ...steps.lineage.parts import Proof
    from ...steps.lineage.record import Report, Timing


def pictures(report: Report) -> dict[str, str]:
    """SVG by name; empty where there is nothing to show."""
    return {
        "proofs": _proofs(report.proofs),
        "weights": _weights(report),
        "activations": _activations(report),
        **learning_curves(report),
        "latency": _latency(report),
        "throughput": _throughput(report),
        "speedup": _speedup(report),
        "roofline": _roofline(report),
    }


def _proofs(proofs: Sequence[Proof]) -> str:
    """Error ratios, part by part, below the bound."""
    rows = [
        Row(one.name, Dot(one.ratio), group=Path(proof.target).name, bad=not one.passed)
        for proof in proofs
        for one in proof.compared
        if one.ratio is not None and one.ratio > 0
    ]
    bounds = [one.limit for proof in proofs for one in proof.compared if one.limit]
    axis = "error / reference's own rounding error"
    bound = min(bounds, default=None)
    return dots("proofs", rows, axis, log=True, line=bound) if rows else ""


def _weights(report: Report) -> str:
    rows = [
        Row(
            one.block,
            _largest(one.after.minimum, one.after.maximum),
            None if one.before is None else _largest(one.before.minimum, one.before.maximum),
        )
        for one in report.ranges.weights
    ]
    return dots("weights", rows, "largest |weight|", zero=True) if rows else ""


def _activations(report: Report) -> str:
    rows = [
        Row(
            one.block,
            _largest(one.after.minimum, one.after.maximum),
            None if one.branches is None else _largest(one.branches.minimum, one.branches.maximum),
        )
        for one in report.ranges.activations
    ]
    return dots("activations", rows, "largest |activation|", zero=True) if rows else ""


def _largest(low: float, high: float) -> Dot:
    return Dot(max(abs(low), abs(high)))


def _group(one: Timing) -> str:
    return f"{one.runtime}, batch {one.batch}"


def _timings(report: Report) -> Sequence[Timing]:
    return () if report.speed is None else report.speed.timings


def _latency(report: Report) -> str:
    rows = [
        Row(
            one.label,
            Dot(one.median * 1e3, one.quartiles[0] * 1e3, one.quartiles[1] * 1e3),
            group=_group(one),
        )
        for one in _timings(report)
    ]
    return dots("latency", rows, "ms a step, median and quartiles", log=True) if rows else ""


def _throughput(report: Report) -> str:
    rows = [Row(one.label, _images(one), group=_group(one)) for one in _timings(report)]
    return dots("throughput", rows, "images a second, 95 % interval", log=True) if rows else ""


def _images(one: Timing) -> Dot:
    if one.interval is None:
        return Dot(one.images_per_second)
    low, high = one.interval
    return Dot(one.images_per_second, one.batch / high, one.batch / low)


def _speedup(report: Report) -> str:
    rows = [
        Row(one.label, Dot(one.ratio, *(one.ratio_interval or (None, None))), group=_group(one))
        for one in _timings(report)
        if one.ratio is not None
    ]
    axis = "times as fast, 95 % interval"
    return dots("speedup", rows, axis, log=True, line=1.0) if rows else ""


def _roofline(report: Report) -> str:
    """Numbered as in the table below it."""
    if report.speed is None or not report.speed.rooflines:
        return ""
    points = [
        Point(
            one.macs / one.bytes,
            one.macs * one.share / one.ceiling_seconds,
            one.macs / one.ceiling_seconds,
        )
        for one in report.speed.rooflines
        if min(one.macs, one.bytes, one.ceiling_seconds, one.share) > 0
    ]
    roofs = [
        (f"{ceiling.get('device')} {precision}", float(macs), float(ceiling["bytes"]))
        for ceiling in report.speed.ceilings
        if isinstance(ceiling.get("macs"), dict) and _positive(ceiling.get("bytes"))
        for precision, macs in ceiling["macs"].items()
        if _positive(macs)
    ]
    return roofline("roofline", points, roofs) if points else ""


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
