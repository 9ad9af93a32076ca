"""Networks on one runtime, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from ..bench.clocks import Sampler
from ..bench.conditions import Conditions
from ..bench.doubts import doubts
from ..bench.measure import Timing, measure
from ..bench.record import Contest, Failure, Measured
from ..bench.stats import drift, speedup, summarize
from ..errors import CheckFailed
from ..runners.protocol import Compiling, Transferring
from ..runners.torch_network import no_tf32
from .bench_faith import Yardstick
from .bench_lane import Lane, Started, reason_of, start

#: (runtime, batch, share of the duration that is over)
Progress = Callable[[str, int, float], None]
#: Transfers of a batch that are timed.
_TRANSFERS = 20


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
    started: dict[str, Started] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
        steps = {label: started.runner.step for label, started in held.started.items()}
        with Sampler() as sampler:
            timing = measure(
                steps,
                rules.duration,
                seed=rules.seed,
                progress=lambda share: progress(runtime, batch, share),
            )
        held.interrupted = timing.interrupted
        return _contest(held, timing, lanes, rules, sampler.conditions), held


def _start(lane: Lane, held: Held, seed: int, yardstick: Yardstick) -> None:
    """Runtimes raise what they like; whatever it is, the other lanes go on."""
    try:
        started = start(lane, held.batch, seed, yardstick)
    except Exception as error:
        held.failures.append(Failure(lane.label, reason_of(error, held.batch)))
        if isinstance(error, CheckFailed):
            held.differing.append(lane.label)
        return
    held.started[lane.label] = started
    if started.doubt:
        held.differing.append(lane.label)
        held.doubts.append(f"{lane.label}: results differ: {started.doubt}")
    if isinstance(started.runner, Compiling):
        held.compiled[lane.label] = started.runner.compile_seconds


def _contest(
    held: Held, timing: Timing, lanes: Sequence[Lane], rules: Rules, conditions: Conditions
) -> Contest:
    entered = [lane.label for lane in lanes]
    labels = [label for label in entered if label in timing.seconds]
    wanted = rules.baseline if rules.baseline in entered else entered[0]
    baseline = wanted if wanted in labels else next(iter(labels), wanted)
    if labels:
        if baseline != wanted:
            held.notes.append(f"{wanted} gave no time here, so {baseline} is the baseline")
        held.notes += _other_images(lanes, baseline)
        held.doubts += [*doubts(timing), *conditions.doubts]
    return Contest(
        runtime=held.runtime,
        batch=held.batch,
        baseline=baseline,
        seed=timing.seed,
        warm_up_rounds=timing.warm_up_rounds,
        measured=[_measured(label, baseline, held, timing, rules.seed) for label in labels],
        failures=held.failures + timing.failures,
        doubts=held.doubts,
        conditions=asdict(conditions),
    )


def _measured(label: str, baseline: str, held: Held, timing: Timing, seed: int) -> Measured:
    seconds, started = timing.seconds[label], held.started[label]
    runner, transfer = started.runner, None
    if isinstance(runner, Transferring) and not timing.interrupted:
        transfer = summarize([runner.transfer() for _ in range(_TRANSFERS)])
    ratio = speedup(timing.seconds[baseline], seconds, seed=seed) if label != baseline else None
    summary = summarize(seconds)
    return Measured(label, seconds, summary, drift(seconds), ratio, transfer, started.memory)


def _other_images(lanes: Sequence[Lane], baseline: str) -> list[str]:
    """Those that see other images than the baseline."""
    shapes = {
        lane.label: (lane.entrant.channels, *lane.entrant.subject.image_size) for lane in lanes
    }
    return [
        f"{label} takes other images than {baseline}: {'x'.join(map(str, shape))}"
        for label, shape in shapes.items()
        if shape != shapes[baseline]
    ]
