"""How often the 95 % interval of a ratio holds the true ratio, by simulation.

python -m tests.benchmarks.interval_coverage [REPETITIONS] prints a table (docs/benchmarking.md).
Two steps of equal true speed; ``paired`` is bench's own ratio of steps measured in turn, ``apart``
that of --compare, of runs measured apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from repvgg_deploy.bench import stats

Series = NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Series]


def independent(rng: np.random.Generator, rounds: int, spread: float = 0.05) -> Series:
    """Two series, [2, N], of lognormal noise."""
    return rng.lognormal(0, spread, (2, rounds))


def autoregressive(
    rng: np.random.Generator, rounds: int, memory: float, shock: float = 0.05
) -> Series:
    """Each series has noise of its own that lasts; AR(1)."""
    shocks = rng.normal(0, shock, (2, rounds))
    noise = np.empty_like(shocks)
    noise[:, 0] = shocks[:, 0] / np.sqrt(1 - memory**2)
    for i in range(1, rounds):
        noise[:, i] = memory * noise[:, i - 1] + shocks[:, i]
    return np.exp(noise)


def drifting(rng: np.random.Generator, rounds: int) -> Series:
    """Both get slower together, by 30 %."""
    return independent(rng, rounds) * np.linspace(1, 1.3, rounds)


def walking(rng: np.random.Generator, rounds: int) -> Series:
    """Both wander together."""
    return independent(rng, rounds) * np.exp(np.cumsum(rng.normal(0, 0.02, rounds)))


def with_outliers(rng: np.random.Generator, rounds: int) -> Series:
    """One sample in ten is far too long."""
    late = rng.random((2, rounds)) < 0.1
    return independent(rng, rounds) * (1 + late * rng.exponential(1, (2, rounds)))


NOISES: dict[str, Noise] = {
    "independent, 5 %": independent,
    "independent, 20 %": lambda rng, rounds: independent(rng, rounds, 0.2),
    "outliers": with_outliers,
    "common drift": drifting,
    "common walk": walking,
    "lasting, 0.3": lambda rng, rounds: autoregressive(rng, rounds, 0.3),
    "lasting, 0.6": lambda rng, rounds: autoregressive(rng, rounds, 0.6),
    "lasting, 0.9": lambda rng, rounds: autoregressive(rng, rounds, 0.9),
}
APART = ("independent, 5 %", "outliers", "lasting, 0.3", "lasting, 0.6", "lasting, 0.9")


def ratios(noise: Noise, rounds: int, repetitions: int, paired: bool) -> list[stats.Ratio]:
    """As many ratios of two steps of equal speed."""
    rng = np.random.default_rng(5)
    ratio = stats.speedup if paired else stats.change
    return [ratio(*noise(rng, rounds).tolist(), seed=seed) for seed in range(repetitions)]


def coverage(found: list[stats.Ratio]) -> float:
    """Percent of the intervals that hold 1; a ratio without one counts for nothing."""
    given = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    return 100 * sum(low <= 1 <= high for low, high in given) / len(given)


def cell(noise: Noise, rounds: int, repetitions: int, paired: bool) -> str:
    """``94.2``, or ``85.0 (60)`` where only 60 % of the ratios have an interval."""
    found = ratios(noise, rounds, repetitions, paired)
    given = 100 * sum(one.low is not None for one in found) / len(found)
    return f"{coverage(found):.1f}" + ("" if given > 99 else f" ({given:.0f})")


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    counts = (6, 12, 30, 60, 200)
    print(f"{'':28}", *(f"{rounds:5} rounds" for rounds in counts))
    for paired, names in ((True, tuple(NOISES)), (False, APART)):
        for name in names:
            cells = [cell(NOISES[name], rounds, repetitions, paired) for rounds in counts]
            way = "in turn" if paired else "apart"
            print(f"{way}, {name:20}", *(f"{one:>12}" for one in cells), flush=True)


if __name__ == "__main__":
    main()
