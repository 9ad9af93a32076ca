"""bench --compare: two benchmarks from their files."""

from __future__ import annotations

from pathlib import Path

from ..bench.compare import Comparison, compare
from ..bench.read import read_bench
from ..errors import CheckFailed, UserError


def compare_files(old: Path, new: Path) -> Comparison:
    """Change or noise, subject by subject.

    Raises:
        UserError: a file cannot be read, or the runs cannot be compared.
    """
    return compare(read_bench(old), read_bench(new))


def check_limit(comparison: Comparison, limit: float) -> None:
    """For CI: nothing may be slower by more than ``limit`` (0.05: 5 %), and all has to be judged.

    Raises:
        CheckFailed: a subject is shown to be slower by more than that (``Change.slower_than``).
        UserError: none is, but of some that cannot be said.
    """
    if slower := comparison.slower_than(limit):
        worst = max(slower, key=lambda one: one.ratio.value)
        raise CheckFailed(
            f"slower by more than {100 * limit:g}%: {len(slower)} of {len(comparison.changes)}; "
            f"the worst is {worst.label} on {worst.runtime}, batch {worst.batch}: "
            f"{worst.ratio.value:.3f} times the old median."
        )
    if unjudged := comparison.unjudged(limit):
        first = unjudged[0]
        label = first.label or "all subjects"
        raise UserError(
            f"--fail-if-slower: {len(unjudged)} could not be judged, the first is {label} on "
            f"{first.runtime}, batch {first.batch} ({first.reason}); run bench again for both."
        )
