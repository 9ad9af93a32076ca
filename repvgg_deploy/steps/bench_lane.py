"""bench: a network made ready on a runtime, its first outputs looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..bench.memory import Device, PeakMemory
from ..bench.record import Memory
from ..errors import CheckFailed, RepvggDeployError
from ..runners.protocol import Runner
from .bench_faith import Yardstick
from .bench_subjects import Entrant

#: What runtimes say where memory ran out; on the CPU torch and ONNX Runtime have no exception of
#: their own for it.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Failed to allocate", "bad_alloc")
_LONGEST = 300


@dataclass(frozen=True)
class Lane:
    """An entrant on a runtime. ``open`` makes its runner; ``rounding`` is the precision whose
    rounding error its outputs may show; ``device`` whose memory it takes besides the host's."""

    entrant: Entrant
    open: Callable[[], Runner]
    rounding: str
    device: Device = "none"

    @property
    def label(self) -> str:
        return self.entrant.label


@dataclass(frozen=True)
class Started:
    """A runner that has run a batch once. ``doubt`` says why its outputs are not what they ought to
    be, empty where they are; ``memory`` is the peak until then."""

    runner: Runner
    doubt: str
    memory: Memory


def start(lane: Lane, batch: int, seed: int, yardstick: Yardstick) -> Started:
    """Open, load and run a lane once.

    Raises:
        UserError: it cannot run; and whatever runtimes raise.
        CheckFailed: its output holds NaN or infinity, or is no batch of logits.
    """
    images = lane.entrant.images(batch, seed)
    with PeakMemory(lane.device) as peak:
        runner = lane.open()
        runner.load(images)
        runner.step()
        output = runner.output()
    check_finite(output, batch)
    doubt = yardstick.doubt(lane.entrant, images, output, lane.rounding)
    return Started(runner, doubt, peak.memory)


def check_finite(output: NDArray[np.float64], batch: int) -> None:
    """CheckFailed for what is no [batch, classes] of finite numbers."""
    if output.ndim != 2 or len(output) != batch:
        raise CheckFailed(f"its output has the shape {output.shape}, not [{batch}, classes].")
    if not np.isfinite(output).all():
        raise CheckFailed("its output holds NaN or infinity.")


def reason_of(error: Exception, batch: int) -> str:
    """One line on what a runtime raised."""
    text = " ".join(str(error).split())[:_LONGEST]
    no_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if no_memory or any(words in text for words in _OUT_OF_MEMORY):
        return f"a batch of {batch} does not fit in memory ({text or 'no more is told'})"
    return text if isinstance(error, RepvggDeployError) else f"{type(error).__name__}: {text}"
