"""A benchmark as a table."""

from __future__ import annotations

from ..bench.stats import Ratio
from ..steps.bench import BenchResult
from ..steps.contest import Contest
from .text import table

_HEADER = (
    "runtime", "network", "batch", "median ms", "p90 ms", "p99 ms", "samples", "images/s",
    "fused is faster by [95 %]",
)  # fmt: skip


def bench_text(result: BenchResult) -> str:
    """Table, environment and what was not measured."""
    rows = [row for contest in result.contests for row in _rows(contest)]
    height, width = result.image_size
    env = result.environment
    gpu = f", {env['gpu']}" if env["gpu"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    return "\n".join(
        [
            f"{result.model}: {result.architecture}, {height}x{width} px, fp32",
            f"proof: {result.proof}",
            table(_HEADER, rows, left=2),
            f"{env['cpu']}, {env['threads']} threads of {env['cores']} cores{gpu}; {packages}; "
            f"{env['date']}",
            *(f"note: {note}" for note in result.notes),
        ]
    )


def _rows(contest: Contest) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for label, summary in contest.summaries.items():
        rows.append(
            (
                contest.runtime,
                label,
                str(contest.batch),
                f"{summary.median * 1e3:.2f}",
                _milliseconds(summary.p90),
                _milliseconds(summary.p99),
                str(summary.samples),
                f"{contest.throughput(label):.0f}",
                _speedup(contest.speedups.get(label)),
            )
        )
    return rows


def _speedup(ratio: Ratio | None) -> str:
    """Without an interval where there were too few samples for one."""
    if ratio is None:
        return ""
    if ratio.low is None or ratio.high is None:
        return "- [too few samples]"
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def _milliseconds(seconds: float | None) -> str:
    """``-`` where there were too few samples for the percentile."""
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"
