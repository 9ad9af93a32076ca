"""What a machine was like while something was measured, and what of it puts the times in doubt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .cores import CpuTime
from .nvml import GpuSample

#: A clock that moves by more than this share between its 10th and 90th percentile is not steady.
STEADY_CLOCK = 0.05
#: Shares of the machine's cores that others, and the hypervisor, may take without a doubt.
FOREIGN_SHARE, STEAL_SHARE = 0.05, 0.01
#: CPU time is told in ticks of 10 ms: shorter spans are not judged by it.
JUDGED_SECONDS = 1.0


@dataclass(frozen=True)
class Spread:
    """Of the samples of one span."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class GpuConditions:
    """Of torch's device 0. Clocks in MHz, ``power`` in W, ``temperature`` in degrees Celsius;
    ``throttled`` names the reasons seen, empty where there were none. None: not told here."""

    name: str | None
    sm_clock: Spread | None
    memory_clock: Spread | None
    power: Spread | None
    temperature: Spread | None
    throttled: list[str] | None


@dataclass(frozen=True)
class Conditions:
    """JSON-ready; None where this machine does not tell.

    ``cpu_clock`` is that of the fastest usable core, in MHz. ``foreign_load`` is the cores that
    other processes kept busy on average; ``steal`` the share of time that the hypervisor took;
    ``quota_waits`` the seconds for which the container's CPU quota stopped threads of it.
    ``doubts`` say what of this puts timings in doubt.
    """

    seconds: float
    samples: int
    cpu_clock: Spread | None
    load_average: Spread | None
    foreign_load: float | None
    steal: float | None
    quota_waits: float | None
    gpu: GpuConditions | None
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """One moment."""

    cpu_clock: float | None
    load_average: float | None
    gpu: GpuSample | None


@dataclass(frozen=True)
class Totals:
    """Counters that only grow; ``own`` is the CPU time of this process and its children."""

    wall: float
    own: float
    machine: CpuTime | None
    quota_waits: float | None


def summarised(
    begin: Totals, end: Totals, samples: list[Sample], gpu_name: str | None
) -> Conditions:
    """The span from ``begin`` to ``end``, with what of it puts timings in doubt."""
    seconds = end.wall - begin.wall
    foreign = steal = None
    if begin.machine is not None and end.machine is not None:
        busy, total = end.machine.busy - begin.machine.busy, end.machine.total - begin.machine.total
        foreign = max(0.0, busy - (end.own - begin.own)) / seconds
        stolen = end.machine.steal - begin.machine.steal
        # Where a virtual machine moves to another host, counters may step back.
        steal = max(0.0, stolen / total) if total > 0 else 0.0
    waits = None
    if begin.quota_waits is not None and end.quota_waits is not None:
        waits = max(0.0, end.quota_waits - begin.quota_waits)
    cpu_clocks = [sample.cpu_clock for sample in samples]
    of_gpu = [sample.gpu for sample in samples if sample.gpu is not None]
    gpu = _of_gpu(gpu_name, of_gpu)
    judged = seconds >= JUDGED_SECONDS
    return Conditions(
        seconds=seconds,
        samples=len(samples),
        cpu_clock=_spread(cpu_clocks),
        load_average=_spread([sample.load_average for sample in samples]),
        foreign_load=foreign,
        steal=steal,
        quota_waits=waits,
        gpu=gpu,
        doubts=[
            *_of_throttling(gpu),
            *_of_clock("the GPU's clock", [s.sm_clock for s in of_gpu if not s.idle]),
            *_of_clock("the CPU's clock", cpu_clocks),
            *(_of_load(foreign, steal) if judged else []),
            *_of_quota(waits),
        ],
    )


def _of_gpu(name: str | None, samples: list[GpuSample]) -> GpuConditions | None:
    if not samples:
        return None
    told = [sample.throttled for sample in samples if sample.throttled is not None]
    return GpuConditions(
        name=name,
        sm_clock=_spread([sample.sm_clock for sample in samples]),
        memory_clock=_spread([sample.memory_clock for sample in samples]),
        power=_spread([sample.power for sample in samples]),
        temperature=_spread([sample.temperature for sample in samples]),
        throttled=sorted({reason for reasons in told for reason in reasons}) if told else None,
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    told = [value for value in values if value is not None]
    return Spread(min(told), float(np.median(told)), max(told)) if told else None


def _of_throttling(gpu: GpuConditions | None) -> list[str]:
    if gpu is None or not gpu.throttled:
        return []
    return [f"the GPU was throttled: {', '.join(gpu.throttled)}"]


def _of_clock(what: str, megahertz: Sequence[float | None]) -> list[str]:
    told = [value for value in megahertz if value is not None]
    if not told:
        return []
    low, high = np.percentile(told, (10, 90))
    if high <= low * (1 + STEADY_CLOCK):
        return []
    return [f"{what} was not steady: {low:.0f} to {high:.0f} MHz"]


def _of_load(foreign: float | None, steal: float | None) -> list[str]:
    cores = os.cpu_count() or 1
    doubts = []
    if foreign is not None and foreign > FOREIGN_SHARE * cores:
        doubts.append(f"other processes kept {foreign:.2f} of {cores} cores busy")
    if steal is not None and steal > STEAL_SHARE:
        doubts.append(f"the hypervisor took {steal:.1%} of the CPU time (steal)")
    return doubts


def _of_quota(waits: float | None) -> list[str]:
    if not waits:
        return []
    return [f"the container's CPU quota stopped threads for {waits:.2f} s; use fewer --threads"]
