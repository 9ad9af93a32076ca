"""A comparison of two benchmarks as a table."""

from __future__ import annotations

from ..bench.compare import Change, Comparison, Skipped
from .text import one_line, table

_HEADER = ("runtime", "network", "batch", "old ms", "new ms", "new / old [95 %]", "verdict")


def comparison_text(comparison: Comparison) -> str:
    """Table, what could not be compared, and what else differs."""
    rows = [_row(change) for change in comparison.changes]
    return "\n".join(
        [
            table(_HEADER, rows, left=2),
            *(f"not compared: {skipped_text(one)}" for one in comparison.skipped),
            *(f"note: {one_line(note)}" for note in comparison.notes),
        ]
    )


def _row(change: Change) -> tuple[str, ...]:
    return (
        one_line(change.runtime),
        one_line(change.label),
        str(change.batch),
        f"{change.old * 1e3:.3f}",
        f"{change.new * 1e3:.3f}",
        ratio_text(change),
        change.verdict,
    )


def ratio_text(change: Change) -> str:
    """``1.08 [1.06, 1.10]``"""
    ratio = change.ratio
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def skipped_text(one: Skipped) -> str:
    """``torch-cpu, batch 8, fused: only the old run has it``"""
    label = "" if one.label is None else f", {one.label}"
    return one_line(f"{one.runtime}, batch {one.batch}{label}: {one.reason}")
