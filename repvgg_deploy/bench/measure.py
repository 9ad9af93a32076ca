"""Timing several steps against one another in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Step = Callable[[], None]
Clock = Callable[[], float]


#: Two rounds in a row that differ by no more than this share are steady.
STEADY = 0.2


def measure(
    steps: Mapping[str, Step],
    duration: float,
    *,
    clock: Clock = time.perf_counter,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, list[float]]:
    """Seconds of every run of each step, taken in turn: A B C, C B A, A B C, ...

    Drift of the machine (clocks, heat, other load) so falls on all alike, and all have the same
    number of samples. Unmeasured rounds come first, until two in a row agree or a third of
    ``duration`` is over; then at least one measured round, and more until ``duration`` (in
    seconds, the warm-up included) is over. ``progress`` is told the share of it that is over.
    """
    start = clock()
    order = list(steps)

    def run_round() -> dict[str, float]:
        seconds = {}
        for label in order:
            begin = clock()
            steps[label]()
            seconds[label] = clock() - begin
            progress(min(1.0, (clock() - start) / duration))
        order.reverse()
        return seconds

    before = sum(run_round().values())
    while clock() - start < duration / 3:
        now = sum(run_round().values())
        if abs(now - before) <= STEADY * min(now, before):
            break
        before = now
    order = list(steps)
    rounds = [run_round()]
    while clock() - start < duration:
        rounds.append(run_round())
    return {label: [seconds[label] for seconds in rounds] for label in steps}
