"""What speaks against believing a measurement."""

from __future__ import annotations

from .measure import Timing
from .stats import INTERVAL_SAMPLES, against_itself, drift


def doubts(timing: Timing) -> list[str]:
    """Sentences that mark the times as unreliable; empty where nothing does.

    An interruption is none: what was measured before it is as good as any.
    """
    found = []
    if timing.unsteady:
        rounds = timing.warm_up_rounds
        found.append(
            f"not seen to get steady in {rounds} round{'' if rounds == 1 else 's'} of warm-up: "
            f"{'; '.join(timing.unsteady)}"
        )
    for label, seconds in timing.seconds.items():
        if not (halves := drift(seconds)).steady:
            found.append(
                f"{label} drifted: the second half of its times is {1 / halves.ratio.value:.2f} "
                "times the first"
            )
        if not (itself := against_itself(seconds)).steady:
            found.append(
                f"{label} differs from itself: every other pair of rounds is "
                f"{1 / itself.ratio.value:.2f} times the rest"
            )
    fewest = min(map(len, timing.seconds.values()), default=0)
    if fewest < INTERVAL_SAMPLES:
        found.append(
            f"there are {fewest} rounds, and an interval takes {INTERVAL_SAMPLES}; "
            "give a longer --duration"
        )
    return found
