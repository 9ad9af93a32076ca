"""Change or noise: one benchmark against another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UserError
from .comparable import check_machine, other_files, why_not, why_not_subject
from .record import BenchRecord, Contest, Measured
from .stats import Ratio, change, differs

FASTER, SLOWER = "faster", "slower"
SAME, NOISY = "no change beyond noise", "too noisy to tell a change of 5 %"
FEW = "too few samples to tell"
#: What an interval has to exclude on both sides before nothing is said to have changed.
TOLD = 0.05


@dataclass(frozen=True)
class Change:
    """``ratio`` is the new median over the old one (above 1: slower)."""

    runtime: str
    batch: int
    label: str
    old: float
    new: float
    ratio: Ratio
    verdict: str


@dataclass(frozen=True)
class Skipped:
    """A subject that is in a run and could not be compared; ``label`` None: the whole contest."""

    runtime: str
    batch: int
    label: str | None
    reason: str


@dataclass(frozen=True)
class Comparison:
    """``notes`` say what else differs."""

    changes: list[Change]
    skipped: list[Skipped]
    notes: list[str]

    def slower_than(self, limit: float) -> list[Change]:
        """Those that are slower by more than ``limit`` (0.05: 5 %), whole interval beyond it."""
        return [
            one for one in self.changes if one.ratio.low is not None and one.ratio.low > 1 + limit
        ]

    def unjudged(self) -> list[Skipped]:
        """All that cannot be said not to be slower: skipped, or with too few samples."""
        few = [
            Skipped(one.runtime, one.batch, one.label, FEW)
            for one in self.changes
            if one.ratio.low is None
        ]
        return self.skipped + few


def compare(old: BenchRecord, new: BenchRecord) -> Comparison:
    """Each subject of the old run against the same of the new one.

    Raises:
        UserError: the runs cannot be compared, or nothing that is in both can.
    """
    check_machine(old, new)
    changes: list[Change] = []
    skipped: list[Skipped] = []
    news = {(one.runtime, one.batch): one for one in new.contests}
    for contest in old.contests:
        other = news.pop((contest.runtime, contest.batch), None)
        place = contest.runtime, contest.batch
        if reason := why_not(contest, other, old, new):
            skipped.append(Skipped(*place, None, reason))
            continue
        assert other is not None
        for label in _labels(contest, other):
            before, after = contest.of(label), other.of(label)
            if before is None or after is None:
                skipped.append(Skipped(*place, label, _why_missing(label, contest, other)))
            elif reason := why_not_subject(label, old, new):
                skipped.append(Skipped(*place, label, reason))
            else:
                changes.append(_change(contest, before, after))
    skipped += [Skipped(*place, None, "only the new run has it") for place in news]
    if not changes:
        reasons = dict.fromkeys(one.reason for one in skipped)
        raise UserError(
            f"--compare: nothing of the two runs can be compared: {'; '.join(reasons) or 'empty'}."
        )
    return Comparison(changes, skipped, [*other_files(old, new), *_moved_alike(changes)])


def _labels(*contests: Contest) -> list[str]:
    """Each once, failed ones too."""
    measured = [one.label for contest in contests for one in contest.measured]
    failed = [one.label for contest in contests for one in contest.failures]
    return list(dict.fromkeys(measured + failed))


def _why_missing(label: str, contest: Contest, other: Contest) -> str:
    for which, one in (("new", other), ("old", contest)):
        for failure in one.failures:
            if failure.label == label:
                return f"it failed in the {which} run: {failure.reason}"
    return f"only the {'new' if contest.of(label) is None else 'old'} run has it"


def _change(contest: Contest, before: Measured, after: Measured) -> Change:
    ratio = change(before.seconds, after.seconds)
    return Change(
        contest.runtime,
        contest.batch,
        before.label,
        before.summary.median,
        after.summary.median,
        ratio,
        verdict(ratio),
    )


def verdict(ratio: Ratio) -> str:
    """What a ratio of new over old shows."""
    if ratio.low is None or ratio.high is None:
        return FEW
    if differs(ratio):
        return SLOWER if ratio.value > 1 else FASTER
    return SAME if ratio.low >= 1 - TOLD and ratio.high <= 1 + TOLD else NOISY


def _moved_alike(changes: list[Change]) -> Iterator[str]:
    """All subjects of a contest, changed or not, slower or faster by one factor."""
    for runtime, batch in dict.fromkeys((one.runtime, one.batch) for one in changes):
        here = [one for one in changes if (one.runtime, one.batch) == (runtime, batch)]
        verdicts = {one.verdict for one in here}
        if len(here) > 1 and (verdicts == {SLOWER} or verdicts == {FASTER}):
            yield (
                f"{runtime}, batch {batch}: all subjects are {here[0].verdict}, so it may be the "
                "machine that changed"
            )
