"""Networks on one runtime, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..bench.measure import measure
from ..bench.stats import Ratio, Summary, speedup, summarize
from ..runners.protocol import Runner
from ..runners.torch_network import no_tf32

RAW, FOLDED, FUSED = "unfused", "unfused, conv-BN folded", "fused"

#: (runtime, batch, share of the duration that is over)
Progress = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Contest:
    """The networks on one runtime at one batch size. ``seconds`` holds every single sample."""

    runtime: str
    batch: int
    seconds: dict[str, list[float]]
    summaries: dict[str, Summary]
    speedups: dict[str, Ratio]

    def throughput(self, network: str) -> float:
        """Images a second at the median."""
        return self.batch / self.summaries[network].median


def hold_contest(
    name: str,
    runners: Mapping[str, Runner],
    shape: tuple[int, int, int, int],
    duration: float,
    progress: Progress,
) -> Contest:
    """All runners on the same noise, [N, C, H, W], for ``duration`` seconds in all."""
    batch = shape[0]
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for runner in runners.values():
        runner.load(images)
    steps = {label: runner.step for label, runner in runners.items()}
    with no_tf32():
        seconds = measure(steps, duration, progress=lambda share: progress(name, batch, share))
    speedups = {
        label: speedup(seconds[label], seconds[FUSED]) for label in seconds if label != FUSED
    }
    summaries = {label: summarize(times) for label, times in seconds.items()}
    return Contest(name, batch, seconds, summaries, speedups)
