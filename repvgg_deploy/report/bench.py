"""A benchmark as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from ..bench.record import BenchRecord, Contest, Measured
from ..bench.stats import Ratio
from .text import count_text, table

_HEADER = (
    "ms a batch:", "", "median", "IQR", "p90", "p95", "p99", "samples", "images/s", "faster by",
)  # fmt: skip


def bench_text(record: BenchRecord) -> str:
    """What differs, a table for each contest, environment, and what was not measured."""
    return "\n".join([*_head(record), *_contests(record), *_served(record), *_foot(record)])


def _head(record: BenchRecord) -> Iterator[str]:
    if record.model is not None:
        yield f"{record.model}: {record.architecture}, {record.scenario}"
        yield f"proof: {record.proof}"
    for contest in record.contests:
        for doubt in contest.doubts:
            if ": results differ: " in doubt:
                yield f"RESULTS DIFFER: {contest.runtime}, batch {contest.batch}: {doubt}"
    doubts = sum(len(contest.doubts) for contest in record.contests)
    failures = sum(len(contest.failures) for contest in record.contests)
    counts = ((failures, "failure"), (doubts, "doubt"))
    if told := [count_text(count, noun) for count, noun in counts if count]:
        yield f"{', '.join(told)}: see below"


def _contests(record: BenchRecord) -> Iterator[str]:
    precisions = {subject.label: subject.precision for subject in record.subjects}
    for contest in record.contests:
        yield ""
        yield f"{contest.runtime}, batch {contest.batch}, held against {contest.baseline!r}"
        if contest.measured:
            rows = [_row(contest, one, precisions.get(one.label, "")) for one in contest.measured]
            yield _without_empty(_HEADER, rows)
        yield from (f"  FAILED {failure.label}: {failure.reason}" for failure in contest.failures)
        yield from (f"  DOUBT {doubt}" for doubt in contest.doubts)
        yield from _beside(record, contest)


def _row(contest: Contest, one: Measured, precision: str) -> tuple[str, ...]:
    summary = one.summary
    return (
        one.label,
        precision,
        _milliseconds(summary.median),
        _milliseconds(summary.q75 - summary.q25),
        _milliseconds(summary.p90),
        _milliseconds(summary.p95),
        _milliseconds(summary.p99),
        str(summary.samples),
        _digits(contest.throughput(one.label)),
        "baseline" if one.label == contest.baseline else ratio_text(one.ratio),
    )


def _without_empty(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """No column for a percentile that none has the samples for."""
    kept = [i for i in range(len(header)) if any(row[i] != "-" for row in rows)]
    return table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], left=2)


def _beside(record: BenchRecord, contest: Contest) -> Iterator[str]:
    """Outliers, transfers, memory, the share of the ceiling, and why something is not faster."""
    outliers = [f"{m.label} {m.summary.outliers}" for m in contest.measured if m.summary.outliers]
    if outliers:
        yield f"  outliers, kept: {'; '.join(outliers)}"
    for one in contest.measured:
        if one.transfer is not None:
            yield f"  {one.label}: transfers {_milliseconds(one.transfer.median)} ms, apart"
    peaks = [_peak(one) for one in contest.measured if one.memory is not None]
    if any(peaks):
        yield f"  peak memory: {'; '.join(filter(None, peaks))}"
    here = (contest.runtime, contest.batch)
    shares = [line for line in record.rooflines if (line.runtime, line.batch) == here]
    if shares:
        parts = (f"{line.label} {line.share:.0%} ({line.bound})" for line in shares)
        yield f"  share of this device's ceiling: {'; '.join(parts)}"
    for why in record.explanations:
        if (why.runtime, why.batch) == here:
            yield f"  {why.label} is not shown to be faster: {why.text}"


def _peak(one: Measured) -> str:
    """``fused 120 MB, 300 MB on the device``"""
    assert one.memory is not None
    parts = []
    if one.memory.host is not None:
        parts.append(f"{one.memory.host / 1e6:.0f} MB")
    if one.memory.device is not None:
        parts.append(f"{one.memory.device / 1e6:.0f} MB on the device")
    return f"{one.label} {', '.join(parts)}" if parts else ""


def _served(record: BenchRecord) -> Iterator[str]:
    if record.served:
        header = ("runtime", "network", "requests/s", "p50 ms", "p99 ms", "requests", "bound")
        rows = [
            (
                one.runtime,
                one.label,
                _digits(one.rate),
                _milliseconds(one.p50),
                _milliseconds(one.p99),
                str(one.requests),
                "holds" if one.holds else "broken",
            )
            for one in record.served
        ]
        yield ""
        yield table(header, rows, left=2)


def _foot(record: BenchRecord) -> Iterator[str]:
    env = record.environment
    gpu = f", {env['gpu']}" if env["gpu"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    yield ""
    threads = count_text(env["threads"], "thread")
    yield f"{env['cpu']}, {threads} of {env['cores']} cores{gpu}; {env['date']}"
    yield packages
    sizes = [f"{one.label} {_digits(one.bytes / 1e6)} MB" for one in record.subjects if one.bytes]
    if sizes:
        yield f"size of weights, model or engine: {'; '.join(sizes)}"
    summaries = [one.summary for contest in record.contests for one in contest.measured]
    lacking = [p for p in ("p90", "p95", "p99") if any(getattr(s, p) is None for s in summaries)]
    if lacking:
        names = ", ".join(lacking)
        yield f"note: no {names} where there are too few samples; give a longer --duration"
    yield from (f"note: {note}" for note in record.notes)


def ratio_text(ratio: Ratio | None) -> str:
    """``1.20x [1.10, 1.30]``; without an interval where there were too few samples for one."""
    if ratio is None:
        return ""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f}x [too few]"
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def _digits(number: float) -> str:
    """Three of them at least, none of them an exponent's: ``0.0123``, ``4.56``, ``12,345``."""
    return f"{number:,.0f}" if number >= 999.5 else f"{Decimal(f'{number:.3g}'):f}"


def _milliseconds(seconds: float | None) -> str:
    """``-`` where there were too few samples for the percentile."""
    if seconds is None:
        return "-"
    return _digits(seconds * 1e3)
