"""Networks on one runtime, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..bench.doubts import doubts
from ..bench.measure import Timing, measure
from ..bench.record import Contest, Failure, Measured
from ..bench.stats import drift, speedup, summarize
from ..errors import UserError
from ..runners.protocol import Compiling, Runner, Transferring
from ..runners.torch_network import no_tf32
from .bench_faith import Yardstick
from .bench_subjects import Entrant

#: (runtime, batch, share of the duration that is over)
Progress = Callable[[str, int, float], None]
#: Transfers of a batch that are timed.
_TRANSFERS = 20
#: What runtimes say where memory ran out; torch and ONNX Runtime have no exception of their own
#: for it on the CPU.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Failed to allocate", "bad_alloc")
_LONGEST = 300


@dataclass(frozen=True)
class Lane:
    """An entrant on a runtime. ``open`` makes its runner; ``rounding`` is the precision whose
    rounding error its outputs may show."""

    entrant: Entrant
    open: Callable[[], Runner]
    rounding: str


@dataclass(frozen=True)
class Rules:
    """Of every contest: seconds, the seed of images, order and intervals, and the label that the
    others are held against (where it does not take part, or None: the first)."""

    duration: float
    seed: int = 0
    baseline: str | None = None


@dataclass
class Held:
    """A contest as it goes. ``differing`` are labels whose outputs are not what they ought to be;
    ``compiled`` the seconds of compiling by label; ``interrupted``: by Ctrl-C."""

    runtime: str
    batch: int
    runners: dict[str, Runner] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    compiled: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False


def hold_contest(
    runtime: str,
    batch: int,
    lanes: Sequence[Lane],
    rules: Rules,
    yardstick: Yardstick,
    progress: Progress,
) -> tuple[Contest, Held]:
    """All lanes on the same noise, in turn, for ``rules.duration`` seconds in all.

    Outputs are compared first. A lane that fails, before or amid the times, is a failure of the
    contest; the others go on.
    """
    held = Held(runtime, batch)
    with no_tf32():
        for lane in lanes:
            _start(lane, held, rules.seed, yardstick)
        steps = {label: runner.step for label, runner in held.runners.items()}
        timing = measure(
            steps,
            rules.duration,
            seed=rules.seed,
            progress=lambda share: progress(runtime, batch, share),
        )
        held.interrupted = timing.interrupted
        return _contest(held, timing, lanes, rules), held


def _start(lane: Lane, held: Held, seed: int, yardstick: Yardstick) -> None:
    """Open, load and run a lane once, and hold its outputs against what they ought to be."""
    label = lane.entrant.label
    with _failing(label, held):
        images = lane.entrant.images(held.batch, seed)
        runner = lane.open()
        runner.load(images)
        runner.step()
        output = runner.output()
        check_finite(output, held.batch)
        if doubt := yardstick.doubt(lane.entrant, images, output, lane.rounding):
            held.differing.append(label)
            held.doubts.append(f"{label}: results differ: {doubt}")
        if isinstance(runner, Compiling):
            held.compiled[label] = runner.compile_seconds
        held.runners[label] = runner


def check_finite(output: NDArray[np.float64], batch: int) -> None:
    """UserError for what is no [batch, classes] of finite numbers."""
    if output.ndim != 2 or len(output) != batch:
        raise UserError(f"its output has the shape {output.shape}, not [{batch}, classes].")
    if not np.isfinite(output).all():
        raise UserError("its output holds NaN or infinity.")


@contextmanager
def _failing(label: str, held: Held) -> Iterator[None]:
    """Runtimes raise what they like; whatever it is, the other lanes go on."""
    try:
        yield
    except Exception as error:
        held.failures.append(Failure(label, reason_of(error, held.batch)))


def reason_of(error: Exception, batch: int) -> str:
    """One line."""
    text = " ".join(str(error).split())[:_LONGEST]
    no_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if no_memory or any(words in text for words in _OUT_OF_MEMORY):
        return f"a batch of {batch} does not fit in memory ({text or 'no more is told'})"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _contest(held: Held, timing: Timing, lanes: Sequence[Lane], rules: Rules) -> Contest:
    labels = [lane.entrant.label for lane in lanes if lane.entrant.label in timing.seconds]
    entered = [lane.entrant.label for lane in lanes]
    wanted = rules.baseline if rules.baseline in entered else entered[0]
    baseline = wanted if wanted in labels else next(iter(labels), wanted)
    if labels and baseline != wanted:
        held.doubts.append(f"{wanted} gave no time here, so {baseline} is the baseline")
    held.doubts += doubts(timing) if labels else []
    held.doubts += _other_sizes(lanes, baseline)
    return Contest(
        runtime=held.runtime,
        batch=held.batch,
        baseline=baseline,
        seed=timing.seed,
        warm_up_rounds=timing.warm_up_rounds,
        measured=[_measured(label, baseline, held, timing, rules.seed) for label in labels],
        failures=held.failures + timing.failures,
        doubts=held.doubts,
    )


def _measured(label: str, baseline: str, held: Held, timing: Timing, seed: int) -> Measured:
    seconds = timing.seconds[label]
    runner, transfer = held.runners[label], None
    if isinstance(runner, Transferring) and not timing.interrupted:
        transfer = summarize([runner.transfer() for _ in range(_TRANSFERS)])
    ratio = speedup(timing.seconds[baseline], seconds, seed=seed) if label != baseline else None
    return Measured(label, seconds, summarize(seconds), drift(seconds), ratio, transfer)


def _other_sizes(lanes: Sequence[Lane], baseline: str) -> list[str]:
    """Those that see other images than the baseline."""
    shapes = {
        lane.entrant.label: (lane.entrant.channels, *lane.entrant.subject.image_size)
        for lane in lanes
    }
    return [
        f"{label} takes other images than {baseline}: {'x'.join(map(str, shape))}"
        for label, shape in shapes.items()
        if baseline in shapes and shape != shapes[baseline]
    ]
