"""Change or noise: one benchmark against another."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .change import ALL_MOVED, FEW, Change, Pair, changes_of, moved_alike
from .comparable import check_machine, other_files, why_not, why_not_subject
from .record import BenchRecord, Contest


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
        """Those that are shown to be slower by more than ``limit`` (0.05: 5 %)."""
        return [one for one in self.changes if one.slower_than(limit)]

    def unjudged(self, limit: float) -> list[Skipped]:
        """All of which that cannot be said: skipped, too few samples, or slower as all are."""
        found = list(self.skipped)
        for one in self.changes:
            low = one.ratio.low
            if low is None:
                found.append(Skipped(one.runtime, one.batch, one.label, FEW))
            elif low > 1 + limit and not one.slower_than(limit):
                found.append(Skipped(one.runtime, one.batch, one.label, ALL_MOVED))
        return found


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
        found, left = _subjects(contest, other, old, new)
        changes += found
        skipped += left
    skipped += [Skipped(*place, None, "only the new run has it") for place in news]
    if not changes:
        reasons = dict.fromkeys(one.reason for one in skipped)
        if not {(one.runtime, one.batch) for one in old.contests}.intersection(
            (one.runtime, one.batch) for one in new.contests
        ):
            reasons = {"no runtime at the same batch size is in both": None}
        raise UserError(
            f"--compare: nothing of the two runs can be compared: {'; '.join(reasons)}."
        )
    return Comparison(changes, skipped, [*other_files(old, new), *moved_alike(changes)])


def _subjects(
    contest: Contest, other: Contest, old: BenchRecord, new: BenchRecord
) -> tuple[list[Change], list[Skipped]]:
    """Of one contest in both runs."""
    pairs: list[Pair] = []
    left: list[Skipped] = []
    for label in _labels(contest, other):
        before, after = contest.of(label), other.of(label)
        if before is None or after is None:
            reason = _why_missing(label, contest, other)
        elif (differing := why_not_subject(label, old, new)) is not None:
            reason = differing
        else:
            pairs.append(Pair(before, after))
            continue
        left.append(Skipped(contest.runtime, contest.batch, label, reason))
    return changes_of(contest.runtime, contest.batch, pairs, contest.baseline), left


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
