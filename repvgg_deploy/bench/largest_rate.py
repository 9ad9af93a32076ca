"""The largest rate of requests whose p99 holds a bound: a bisection over probes of server.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from ..errors import UserError
from .server import Answer, Clock, Probe, WaitUntil, serve, wait_until
from .stats import summarize

#: A probe lasts at least so many relaxation times of the queue, else it never sees the full queue.
RELAXATIONS = 10
#: The search ends when the bracket is this share of the capacity wide, ...
RESOLUTION = 0.02
#: ... and gives up below this share: there is hardly a queue left to shorten.
LOWEST_LOAD = 0.1
#: Calls that the service time is measured from, as many before them unmeasured.
SERVICE_SAMPLES = 10


@dataclass
class Search:
    """What ``largest_rate`` tried, in the order tried.

    ``service`` is the median of the seconds that the worker takes for one request, ``capacity`` the
    rate (a second) that it answers when it never rests, ``ceiling`` the highest rate that so few
    requests can judge. ``complete`` is False where Ctrl-C ended the search.
    """

    bound: float
    service: float
    capacity: float
    ceiling: float
    probes: list[Probe] = field(default_factory=list)
    complete: bool = True

    @property
    def largest(self) -> Probe | None:
        """The probe of the highest rate that held the bound; None where none did."""
        held = [probe for probe in self.probes if probe.holds(self.bound)]
        return max(held, key=lambda probe: probe.rate, default=None)

    def verdict(self) -> str:
        """One sentence: what was found."""
        bound, largest = f"p99 <= {1000 * self.bound:g} ms", self.largest
        if not self.complete:
            return f"{bound}: the search was stopped after {len(self.probes)} probes"
        if self.service > self.bound:
            return (
                f"{bound}: no rate holds it, one request alone takes {1000 * self.service:.1f} ms"
            )
        if largest is None:
            return f"{bound}: no rate from {LOWEST_LOAD:.0%} of the capacity up holds it"
        load = f"{largest.rate / self.capacity:.0%} of the capacity"
        if largest.rate >= self.ceiling:
            return (
                f"{bound}: {largest.rate:,.1f} requests/s or more ({load}, the most that "
                f"{len(largest.latencies)} requests can judge)"
            )
        return f"{bound}: {largest.rate:,.1f} requests/s ({load})"


def largest_rate(
    answer: Answer,
    bound: float,
    requests: int,
    *,
    seed: int = 0,
    batch: int = 1,
    clock: Clock = time.perf_counter,
    wait_until: WaitUntil = wait_until,
    progress: Callable[[Probe], None] = lambda probe: None,
) -> Search:
    """Search the largest rate whose p99 is at most ``bound`` seconds, by bisection.

    All probes have the same pattern of arrivals, so that they differ in the rate alone.
    ``progress`` is told each probe as it ends. Ctrl-C keeps the probes that ended.

    Raises:
        UserError: too few requests for a p99.
    """
    if summarize([bound] * requests).p99 is None:
        raise UserError(f"{requests} requests are too few for a p99; ask for 1000 or more.")
    service = service_seconds(answer, 1, clock)
    capacity = batch / (service_seconds(answer, batch, clock) if batch > 1 else service)
    ceiling = capacity * highest_load(requests)
    search = Search(bound, service, capacity, ceiling)
    low, high, rate = 0.0, ceiling, ceiling
    try:
        while service <= bound and high > LOWEST_LOAD * capacity:
            probe = serve(
                answer, rate, requests, seed=seed, batch=batch, clock=clock, wait_until=wait_until
            )
            search.probes.append(probe)
            progress(probe)
            low, high = (rate, high) if probe.holds(bound) else (low, rate)
            if high - low <= RESOLUTION * capacity:
                break
            rate = (low + high) / 2
    except KeyboardInterrupt:
        search.complete = False
    return search


def service_seconds(answer: Answer, size: int, clock: Clock) -> float:
    """Median seconds of answering ``size`` requests, one call after the other, after a warm-up."""
    seconds = []
    for _ in range(2 * SERVICE_SAMPLES):
        begin = clock()
        answer(size)
        seconds.append(clock() - begin)
    return median(seconds[SERVICE_SAMPLES:])


def highest_load(requests: int) -> float:
    """The largest load (rate / capacity) that so many requests can judge.

    A queue that starts empty nears its steady state with the relaxation time 1 / (mu (1 - sqrt
    rho)^2) (M/M/1: Morse, 1955; with constant service times it is shorter). A probe takes
    requests / (rho mu); this is the rho at which that is RELAXATIONS times as long.
    """
    return float((1 + (RELAXATIONS / requests) ** 0.5) ** -2)
