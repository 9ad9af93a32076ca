"""A command as a whole process: wall time and peak resident memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """``seconds`` of wall time and ``peak_mb`` of resident memory (10^6 bytes)."""

    seconds: float
    peak_mb: float


def run(command: list[str], folder: Path) -> Cost:
    """Run ``command`` in ``folder`` and wait for it; fails where the command does."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{command} failed: {said.decode()}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * scale / 1e6)


def in_turn(commands: dict[str, list[str]], folder: Path, rounds: int) -> dict[str, list[Cost]]:
    """Each command ``rounds`` times, in turn: A B, B A, A B, ..."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    order = list(commands)
    for _ in range(rounds):
        for name in order:
            costs[name].append(run(commands[name], folder))
        order.reverse()
    return costs


def median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.peak_mb for cost in costs),
    )
