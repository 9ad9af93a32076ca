"""bench: what has been measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..bench.record import Contest, Served
from .bench_lane import Lane
from .bench_subjects import Entrant
from .contest import Held


@dataclass
class Results:
    """``differing`` names runtime, batch and label of results that are not what they ought to be;
    ``interrupted``: Ctrl-C came, and this is what there was."""

    contests: list[Contest] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    entrants: dict[str, Entrant] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    interrupted: bool = False

    def add(self, contest: Contest, held: Held, lanes: Sequence[Lane]) -> None:
        """Keep a contest and those that were in it.

        Raises:
            KeyboardInterrupt: it was interrupted, so no other is to begin.
        """
        where = f"{contest.runtime}, batch {contest.batch}"
        self.contests.append(contest)
        self.entrants |= {lane.label: lane.entrant for lane in lanes}
        self.differing += [f"{where}: {label}" for label in held.differing]
        self.notes += [f"{where}: {note}" for note in held.notes]
        if held.compiled:
            total = sum(held.compiled.values())
            self.notes.append(f"{where}: compiling took {total:.1f} s in all, apart from the times")
        if held.interrupted:
            raise KeyboardInterrupt

    def add_served(self, served: list[Served], lane: Lane) -> None:
        """Keep what a lane answered."""
        self.served += served
        self.entrants[lane.label] = lane.entrant

    def interrupt(self) -> None:
        """Ctrl-C has come."""
        self.interrupted = True
        self.notes.append("interrupted by Ctrl-C: this is what was measured until then")

    @property
    def measured(self) -> bool:
        """Whether there is any time at all."""
        return bool(self.served) or any(contest.measured for contest in self.contests)

    def any_failure(self) -> str:
        """Why nothing was measured."""
        failures = [f"{f.label}: {f.reason}" for c in self.contests for f in c.failures]
        served = [note for note in self.notes if ": not served: " in note]
        return next(iter(failures + served), "no runtime here can run what there is")

    def first_failure(self, runtime: str) -> str | None:
        """Why nothing at all was measured on a runtime; None where something was.

        ``runtime`` may be a flavour of engines, whose contests name the precision too.
        """
        ours = [c for c in self.contests if c.runtime.split()[0] == runtime]
        served = any(one.runtime == runtime for one in self.served)
        if served or any(contest.measured for contest in ours):
            return None
        failures = [f"{f.label}: {f.reason}" for contest in ours for f in contest.failures]
        return next(iter(failures), "there is no subject that it can run")
