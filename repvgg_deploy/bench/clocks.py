"""Clocks, power, heat and other load while something is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType


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

    name: str
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


class Sampler:
    """Samples in a background thread from ``with`` to its end; ``conditions`` are ready then."""

    conditions: Conditions

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        raise NotImplementedError
