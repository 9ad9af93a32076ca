"""bench, the server scenario: requests of one image at random, each network for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..bench.clocks import Sampler
from ..bench.largest_rate import largest_rate
from ..bench.server import Answer, Probe, by_size, serve
from ..errors import CheckFailed
from ..runners.protocol import Runner
from ..runners.torch_network import no_tf32
from .bench_faith import Yardstick
from .bench_lane import Lane, reason_of, start
from .bench_results import Results


@dataclass(frozen=True)
class Load:
    """``bound`` is the p99 in seconds that a rate has to hold; ``rate`` (a second) None: the
    largest one that does is searched."""

    bound: float
    requests: int
    rate: float | None


def serve_lanes(
    runtime: str,
    lanes: Sequence[Lane],
    batches: Sequence[int],
    load: Load,
    seed: int,
    yardstick: Yardstick,
    results: Results,
) -> None:
    """Each lane answers requests, up to the largest of ``batches`` at a time.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was found until then is in ``results``.
    """
    for lane in lanes:
        where = f"{runtime}: {lane.label}"
        with no_tf32(), Sampler() as sampler:
            try:
                answer = _prepare(runtime, lane, batches, seed, yardstick, results)
                probes, verdict, complete = _probe(answer, load, seed, max(batches))
            except Exception as error:  # runtimes raise what they like; the other lanes go on
                reason = reason_of(error, max(batches))
                results.notes.append(f"{where}: not served: {reason}")
                if isinstance(error, CheckFailed):
                    results.differing.append(where)
                continue
        results.add_served([one.served(runtime, lane.label, load.bound) for one in probes], lane)
        results.notes += [f"{where}: {said}" for said in (*verdict, *sampler.conditions.doubts)]
        if not complete:
            raise KeyboardInterrupt


def _probe(
    answer: Answer, load: Load, seed: int, batch: int
) -> tuple[Sequence[Probe], list[str], bool]:
    """At the rate that is asked for, or in search of the largest; what was found, in words, and
    whether it came to its end."""
    if load.rate is not None:
        return [serve(answer, load.rate, load.requests, seed=seed, batch=batch)], [], True
    search = largest_rate(answer, load.bound, load.requests, seed=seed, batch=batch)
    return search.probes, [search.verdict()], search.complete


def _prepare(
    runtime: str,
    lane: Lane,
    batches: Sequence[int],
    seed: int,
    yardstick: Yardstick,
    results: Results,
) -> Answer:
    """A runner for each batch size, its outputs held against what they ought to be."""
    runners: dict[int, Runner] = {}
    for batch in batches:
        started = start(lane, batch, seed, yardstick)
        runners[batch] = started.runner
        if started.doubt:
            where = f"{runtime}, batch {batch}: {lane.label}"
            results.differing.append(where)
            results.notes.append(f"{where}: results differ: {started.doubt}")
    return by_size({batch: _step(runner) for batch, runner in runners.items()})


def _step(runner: Runner) -> Callable[[], None]:
    """The server's clock is the host's, whatever the device tells."""

    def step() -> None:
        runner.step()

    return step
