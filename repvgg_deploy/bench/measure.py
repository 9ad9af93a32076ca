"""Timing several steps against one another in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Step = Callable[[], None]
Clock = Callable[[], float]


def measure(
    steps: Mapping[str, Step],
    duration: float,
    *,
    clock: Clock = time.perf_counter,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, list[float]]:
    """Seconds of every run of each step, taken in turn: A B C, C B A, A B C, ...

    Drift of the machine (clocks, heat, other load) so falls on all alike. Each step runs once
    unmeasured to warm up, and at least once measured; after that ``duration`` (in seconds, the
    warm-up included) ends the run. ``progress`` is told the share of it that is over.
    """
    start = clock()
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {label: [] for label in steps}
    order = list(steps)
    while True:
        for label in order:
            over = clock() - start >= duration
            if over and all(times.values()):
                return times
            begin = clock()
            steps[label]()
            times[label].append(clock() - begin)
            progress(min(1.0, (clock() - start) / duration))
        order.reverse()
