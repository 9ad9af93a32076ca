"""What bench's own method costs: an empty step, as measured and as called.

python -m tests.benchmarks.empty_step prints JSON, in microseconds: the median that ``measure``
finds for a step that does nothing, and the wall time of the whole loop for every call of one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from repvgg_deploy.bench.measure import measure
from repvgg_deploy.bench.stats import summarize


def main() -> None:
    medians, loops = [], []
    for seed in range(9):
        calls = 0

        def count() -> None:
            nonlocal calls
            calls += 1

        begin = time.perf_counter()
        timing = measure({"a": lambda: None, "b": count}, 0.5, seed=seed)
        loops.append((time.perf_counter() - begin) / (2 * calls))
        medians.append(summarize(timing.seconds["a"]).median)
    found = {"median": medians, "loop": loops}
    micro = {name: round(1e6 * statistics.median(times), 3) for name, times in found.items()}
    json.dump(micro, sys.stdout)


if __name__ == "__main__":
    main()
