"""What speaks against believing a measurement."""

from __future__ import annotations

from .measure import Timing
from .stats import INTERVAL_SAMPLES, Ratio, against_itself, differs, drift


def doubts(timing: Timing) -> list[str]:
    """Sentences that mark the measurement as unreliable; empty where nothing does."""
    found = [
        f"{label} was not seen to get steady in {timing.warm_up_rounds} rounds of warm-up"
        for label in timing.unsteady
    ]
    if timing.interrupted:
        found.append("the measurement was interrupted")
    for label, seconds in timing.seconds.items():
        if not (moved := drift(seconds)).steady:
            found.append(f"{label} drifted: first half / second half {_text(moved.ratio)}")
        if differs(itself := against_itself(seconds)):
            found.append(f"{label} differs from itself: even / odd rounds {_text(itself)}")
    fewest = min(map(len, timing.seconds.values()), default=0)
    if fewest < INTERVAL_SAMPLES:
        found.append(
            f"there are {fewest} rounds, and an interval takes {INTERVAL_SAMPLES}; "
            "give a longer --duration"
        )
    return found


def _text(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
