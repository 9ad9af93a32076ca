"""Timing several steps against one another in one process."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .record import Failure
from .warm_up import WarmUp

#: One run, complete when it returns. It returns None where the wall clock tells its time, or the
#: seconds that the device itself measured (events on a GPU).
Step = Callable[[], float | None]
Clock = Callable[[], float]

#: Two rounds of a pair, to and fro, are the least; more than the most are no news, and would make
#: a file of gigabytes from steps of microseconds.
FEWEST_ROUNDS, MOST_ROUNDS = 2, 10_000
#: Seconds between two calls of ``progress``.
_PROGRESS_EVERY = 0.1


@dataclass
class Timing:
    """What ``measure`` found.

    ``seconds`` holds every sample of each step that ran through, in the order taken: sample i of
    every label is of round i. ``unsteady`` are the labels that never got steady in the warm-up.
    After an interruption the last round may be there for some labels only, and a label without
    a sample is left out.
    """

    seed: int
    warm_up_rounds: int = 0
    unsteady: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False


def measure(
    steps: Mapping[str, Step],
    duration: float,
    *,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    progress: Callable[[float], None] = lambda share: None,
) -> Timing:
    """Seconds of every run of each step, taken in turn, to and fro: B A C, C A B, ...

    Drift of the machine (clocks, heat, other load) so falls on all alike, and all have the same
    number of samples. The order of every pair of rounds is drawn from ``seed``. Unmeasured rounds
    come first, until every step is steady (``WarmUp``) or a third of ``duration`` is over; then
    whole pairs of rounds, at least one, until ``duration`` (in seconds, the warm-up included) is
    over or there are MOST_ROUNDS. ``progress`` is told the share of it that is over.

    A step that raises, or tells a time that is none, is dropped with its samples and stands in
    ``failures``; the others go on. Ctrl-C ends the measurement, and what was measured is returned.
    """
    timing = Timing(seed)
    run = _Run(dict(steps), duration, clock, progress, timing)
    try:
        run.warm_up()
        run.measure()
    except KeyboardInterrupt:
        timing.interrupted = True
    timing.seconds = {label: times for label, times in timing.seconds.items() if times}
    return timing


class _Run:
    """A measurement under way. ``steps`` are those that have not failed."""

    def __init__(
        self,
        steps: dict[str, Step],
        duration: float,
        clock: Clock,
        progress: Callable[[float], None],
        timing: Timing,
    ) -> None:
        self.steps, self.timing = steps, timing
        self._duration, self._clock, self._progress = duration, clock, progress
        self._start = self._told = clock()
        self._orders = _orders(list(steps), timing.seed)

    def warm_up(self) -> None:
        warm_up = WarmUp(list(self.steps), self._duration / 60, self._start)
        while self.steps:
            samples: dict[str, list[float]] = {label: [] for label in self.steps}
            self._round(samples)
            self.timing.warm_up_rounds += 1
            warm_up.add({label: times[0] for label, times in samples.items()}, self._clock())
            self.timing.unsteady = [label for label in warm_up.unsteady if label in self.steps]
            if not self.timing.unsteady or self._share() >= 1 / 3:
                return

    def measure(self) -> None:
        self._orders = _orders(list(self.steps), self.timing.seed)
        samples = self.timing.seconds = {label: [] for label in self.steps}
        for rounds in range(0, MOST_ROUNDS, FEWEST_ROUNDS):
            if not self.steps or (rounds and self._share() >= 1):
                break
            for _ in range(FEWEST_ROUNDS):
                self._round(samples)
        self._progress(1.0)

    def _round(self, samples: dict[str, list[float]]) -> None:
        """Run each step once; bookkeeping stays out of what is timed."""
        clock = self._clock
        for label in next(self._orders):
            if (step := self.steps.get(label)) is None:
                continue
            try:
                begin = clock()
                told = step()
                seconds = clock() - begin
                if told is not None:
                    seconds = told
                if not 0 < seconds < math.inf:
                    raise ValueError(f"its clock told {seconds} seconds")
            # Runtimes raise what they like: ONNX Runtime's errors and CUDA's share no base.
            except Exception as error:
                self._drop(label, error, samples)
                continue
            samples[label].append(seconds)
            if begin - self._told >= _PROGRESS_EVERY:
                self._told = begin
                self._progress(self._share())

    def _drop(self, label: str, error: Exception, samples: dict[str, list[float]]) -> None:
        del self.steps[label]
        del samples[label]
        reason = str(error) or "no reason given"
        self.timing.failures.append(Failure(label, f"{type(error).__name__}: {reason}"))

    def _share(self) -> float:
        return min(1.0, (self._clock() - self._start) / self._duration)


def _orders(labels: list[str], seed: int) -> Iterator[list[str]]:
    """The order of each round: drawn for every pair, the second of it backwards (ABBA)."""
    drawn = random.Random(seed)
    while True:
        order = drawn.sample(labels, len(labels))
        yield order
        yield order[::-1]
