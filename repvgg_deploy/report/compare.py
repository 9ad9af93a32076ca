"""A comparison of two benchmarks as a table."""

from __future__ import annotations

from ..bench.change import TOLD, Change
from ..bench.compare import Comparison, Skipped
from ..bench.stats import Ratio
from .text import one_line, table

_HEADER = (
    "runtime", "network", "batch", "old ms", "new ms", "new / old [95 %]", "against baseline",
    "verdict",
)  # fmt: skip
_METHOD = (
    f"slower, faster: by more than {TOLD:.0%}, beyond the noise within the two runs.\n"
    "What differs from run to run is in no interval: run twice before you believe a change."
)


def comparison_text(comparison: Comparison) -> str:
    """Table, what could not be compared, and what else differs."""
    rows = [_row(change) for change in comparison.changes]
    return "\n".join(
        [
            table(_HEADER, rows, left=2),
            _METHOD,
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
        ratio_text(change.ratio),
        "" if change.relative is None else ratio_text(change.relative),
        change.verdict,
    )


def ratio_text(ratio: Ratio) -> str:
    """``1.080 [1.060, 1.100]``"""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def skipped_text(one: Skipped) -> str:
    """``torch-cpu, batch 8, fused: only the old run has it``"""
    label = "" if one.label is None else f", {one.label}"
    return one_line(f"{one.runtime}, batch {one.batch}{label}: {one.reason}")
