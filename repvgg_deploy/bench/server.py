"""The server scenario: requests of one image that come at random, one worker, p99 against a bound.

Arrivals are a Poisson process, drawn before the first request is served. A request's latency runs
from its scheduled arrival to its answer, so the time in the queue counts and a late worker moves
no arrival (no coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .record import Served
from .stats import summarize

#: Answers that many waiting requests, complete when it returns.
Answer = Callable[[int], None]
Clock = Callable[[], float]
#: Returns once the clock has reached that time; at once where it is over.
WaitUntil = Callable[[float], None]

#: time.sleep wakes late by a fraction of this; the rest of the wait spins.
SPIN_SECONDS = 0.001


@dataclass(frozen=True)
class Probe:
    """Requests at one rate (a second), answered up to ``batch`` at a time.

    ``latencies`` are seconds from arrival to answer, in order of arrival; ``batches`` how many were
    answered at a time, in order.
    """

    rate: float
    seed: int
    batch: int
    latencies: list[float]
    batches: list[int]

    def holds(self, bound: float) -> bool:
        """Whether the p99 is at most ``bound`` seconds; False where there are too few requests."""
        p99 = summarize(self.latencies).p99
        return p99 is not None and p99 <= bound

    def served(self, runtime: str, label: str, bound: float) -> Served:
        """As it stands in the record."""
        summary = summarize(self.latencies)
        return Served(
            runtime=runtime,
            label=label,
            rate=self.rate,
            requests=len(self.latencies),
            p50=summary.median,
            p99=summary.p99,
            holds=self.holds(bound),
            bound=bound,
            seed=self.seed,
            batch=self.batch,
            mean_batch=len(self.latencies) / len(self.batches),
        )


def wait_until(moment: float) -> None:
    """Sleep, then spin, until ``time.perf_counter`` reaches ``moment``."""
    if (left := moment - time.perf_counter() - SPIN_SECONDS) > 0:
        time.sleep(left)
    while time.perf_counter() < moment:
        pass


def by_size(steps: Mapping[int, Callable[[], None]]) -> Answer:
    """Answers with the step of the smallest prepared batch size that holds them all.

    The rest of that batch is padding, as a server with engines of fixed shape has it.
    """
    sizes = sorted(steps)

    def answer(waiting: int) -> None:
        steps[next(size for size in sizes if size >= waiting)]()

    return answer


def serve(
    answer: Answer,
    rate: float,
    requests: int,
    *,
    seed: int = 0,
    batch: int = 1,
    clock: Clock = time.perf_counter,
    wait_until: WaitUntil = wait_until,
) -> Probe:
    """``requests`` of one image at ``rate`` a second on average, served in order of arrival.

    The worker takes what is waiting, up to ``batch`` at a time, and never waits for a batch to
    fill. The same seed gives the same pattern of arrivals at every rate, only faster or slower.
    """
    gaps = np.random.default_rng(seed).exponential(1.0, requests)
    arrivals: list[float] = (clock() + np.cumsum(gaps) / rate).tolist()
    latencies, batches = work_off(answer, arrivals, batch, clock, wait_until)
    return Probe(rate, seed, batch, latencies, batches)


def work_off(
    answer: Answer, arrivals: list[float], batch: int, clock: Clock, wait_until: WaitUntil
) -> tuple[list[float], list[int]]:
    """The latency of each arrival (times of ``clock``, in order), and the size of each batch."""
    latencies: list[float] = []
    batches: list[int] = []
    while (first := len(latencies)) < len(arrivals):
        wait_until(arrivals[first])
        now, end = clock(), first + 1
        while end < min(first + batch, len(arrivals)) and arrivals[end] <= now:
            end += 1
        answer(end - first)
        done = clock()
        latencies += [done - arrival for arrival in arrivals[first:end]]
        batches.append(end - first)
    return latencies, batches
