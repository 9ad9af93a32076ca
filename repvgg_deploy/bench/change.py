"""What became of one subject from a benchmark to another: change or noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .record import Measured
from .stats import LARGEST_DRIFT, Ratio, change, relative_change

#: A run that passes for steady may have moved by this much, so no less is called a change.
TOLD = LARGEST_DRIFT
FASTER, SLOWER = "faster", "slower"
SAME, UNDECIDED = f"no change above {TOLD:.0%}", f"undecided at {TOLD:.0%}"
FEW = "too few independent samples"
ALL_MOVED = "all subjects there are slower, so it may be the machine"


@dataclass(frozen=True)
class Change:
    """``ratio`` is the new median over the old one (above 1: slower), ``relative`` that ratio over
    the baseline's own (None: this is the baseline, or one run lacks it). ``shared``: all subjects
    of the contest moved that way, so that it may be the machine that did."""

    runtime: str
    batch: int
    label: str
    old: float
    new: float
    ratio: Ratio
    verdict: str
    relative: Ratio | None = None
    shared: bool = False

    def slower_than(self, limit: float) -> bool:
        """Whether that is shown: the whole interval is beyond it, and where all moved, that of
        ``relative`` too."""
        shown = [self.ratio, self.relative] if self.shared else [self.ratio]
        return all(one is not None and one.low is not None and one.low > 1 + limit for one in shown)


def verdict(ratio: Ratio) -> str:
    """What a ratio of new over old shows: on which side of TOLD the whole interval lies."""
    if ratio.low is None or ratio.high is None:
        return FEW
    if ratio.low > 1 + TOLD:
        return SLOWER
    if ratio.high < 1 - TOLD:
        return FASTER
    return SAME if ratio.low >= 1 - TOLD and ratio.high <= 1 + TOLD else UNDECIDED


@dataclass(frozen=True)
class Pair:
    """A subject in the old run and in the new one."""

    old: Measured
    new: Measured


def changes_of(runtime: str, batch: int, pairs: list[Pair], baseline: str) -> list[Change]:
    """Of the subjects of one contest."""
    moves = [one.new.summary.median / one.old.summary.median for one in pairs]
    shared = len(moves) > 1 and (min(moves) > 1 + TOLD or max(moves) < 1 - TOLD)
    yardstick = next((one for one in pairs if one.old.label == baseline), None)
    found = []
    for one in pairs:
        ratio = change(one.old.seconds, one.new.seconds)
        shown = verdict(ratio)
        found.append(
            Change(
                runtime,
                batch,
                one.old.label,
                one.old.summary.median,
                one.new.summary.median,
                ratio,
                f"{shown}, as all are" if shared and shown in (SLOWER, FASTER) else shown,
                None if one is yardstick or yardstick is None else _relative(yardstick, one),
                shared,
            )
        )
    return found


def _relative(yardstick: Pair, one: Pair) -> Ratio:
    return relative_change(
        (yardstick.old.seconds, one.old.seconds), (yardstick.new.seconds, one.new.seconds)
    )


def moved_alike(changes: list[Change]) -> Iterator[str]:
    """Sentences on contests of which all subjects moved one way."""
    for runtime, batch in dict.fromkeys((one.runtime, one.batch) for one in changes if one.shared):
        here = [one for one in changes if (one.runtime, one.batch) == (runtime, batch)]
        moves = [one.ratio.value for one in here]
        held = {one.label: verdict(one.relative) for one in here if one.relative is not None}
        apart = [label for label, shown in held.items() if shown in (SLOWER, FASTER)]
        if apart:
            end = f"against the baseline, {', '.join(apart)} moved too"
        elif held:
            end = "none is shown to have moved against the baseline, so it is rather the machine"
        else:
            end = "it may be the machine"
        yield (
            f"{runtime}, batch {batch}: everything takes {min(moves):.2f} to {max(moves):.2f} "
            f"times as long; {end}"
        )
