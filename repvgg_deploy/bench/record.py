"""What a benchmark leaves behind: ``bench.json``, all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .stats import Drift, Ratio, Summary

SCHEMA = 2

_OF_GPUS = ("cuda", "tensorrt", "rtx")


def on_gpu(runtime: str) -> bool:
    """Whether a contest's runtime (``torch-cuda``, ``tensorrt fp16``) computes on a GPU."""
    return any(name in runtime for name in _OF_GPUS)


@dataclass(frozen=True)
class Subject:
    """A network that is measured.

    ``kind`` is ``unfused`` (the training form as it is), ``folded`` (that with conv-BN folded),
    ``fused``, ``onnx``, ``engine`` or ``reference``; ``precision`` fp32, fp16, bf16 or int8.
    ``path`` and ``sha256`` are of the file it came from, None for a reference network; ``bytes``
    the size of the weights or the engine. ``image_size`` is (height, width).
    """

    label: str
    kind: str
    precision: str
    image_size: tuple[int, int]
    path: str | None = None
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Memory:
    """Peaks while a subject ran, in bytes; None where this machine does not tell."""

    host: int | None
    device: int | None


@dataclass(frozen=True)
class Measured:
    """A subject in a contest. ``seconds`` holds every sample of a step in the order taken.

    ``ratio`` is the baseline's median over this one's: above 1, this one is faster; None for the
    baseline itself. ``transfer`` is of copying the batch to the device and the result back, on a
    GPU, which ``seconds`` leave out.
    """

    label: str
    seconds: list[float]
    summary: Summary
    drift: Drift
    ratio: Ratio | None = None
    transfer: Summary | None = None
    memory: Memory | None = None


@dataclass(frozen=True)
class Failure:
    """A subject that gave no time, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Contest:
    """Subjects on one runtime at one batch size, measured in turn; their precisions may differ.

    ``baseline`` is the label of the one that the others are held against. ``doubts`` say why the
    times are not to be trusted: drift, an outside load, results that differ; empty where there is
    nothing to say. A contest with doubts is not compared with another run, so nothing else belongs
    there. ``seed`` drew the orders; it and ``warm_up_rounds`` are None where a file of schema 1 did
    not say. ``conditions`` are clocks, load and the like meanwhile (bench/conditions.py).
    """

    runtime: str
    batch: int
    baseline: str
    seed: int | None
    warm_up_rounds: int | None
    measured: list[Measured]
    failures: list[Failure] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    conditions: dict[str, Any] | None = None

    def of(self, label: str) -> Measured | None:
        """That subject's measurement, if it has one."""
        return next((one for one in self.measured if one.label == label), None)

    def throughput(self, label: str) -> float:
        """Images a second at the median; KeyError for a subject that was not measured."""
        if (one := self.of(label)) is None:
            raise KeyError(label)
        return self.batch / one.summary.median


@dataclass(frozen=True)
class Served:
    """A subject under requests of one image that come at random (Poisson) at ``rate`` a second.

    One probe of bench/server.py, kept whether it ``holds`` the ``bound`` (seconds; p99) or not.
    ``p50`` and ``p99`` are of the seconds from arrival to answer, ``p99`` None where there are too
    few requests. ``batch`` is the most that were answered at a time, ``mean_batch`` the average.
    """

    runtime: str
    label: str
    rate: float
    requests: int
    p50: float
    p99: float | None
    holds: bool
    bound: float | None = None
    seed: int = 0
    batch: int = 1
    mean_batch: float = 1.0


@dataclass(frozen=True)
class Roofline:
    """A subject beside what this device could do at best. See bench/roofline/.

    ``macs`` are multiply-adds and ``bytes`` the least traffic of one batch; ``ceiling_seconds`` is
    the larger of both at the measured ceilings, ``share`` of it what the median reaches (1: at the
    ceiling), ``bound`` is ``arithmetic`` or ``bytes``. ``layered_seconds`` is the sum over layers
    of each one's own larger one. ``winograd`` is the RepVGG paper's count of multiplications under
    Winograd's F(2x2, 3x3): a count, not a time.
    """

    runtime: str
    batch: int
    label: str
    macs: int
    bytes: int
    ceiling_seconds: float
    share: float
    bound: str
    layered_seconds: float | None = None
    winograd: int | None = None


@dataclass(frozen=True)
class Explanation:
    """Why ``label`` is no faster than the baseline there; ``cause`` is a short name of it."""

    runtime: str
    batch: int
    label: str
    cause: str
    text: str


@dataclass(frozen=True)
class BenchRecord:
    """A whole run. ``scenario`` is latency, throughput or server.

    ``settings`` are the options it ran with; ``ceilings`` this device's measured ones. ``notes``
    say what could not be measured here and why. No number of a record is negative.
    """

    command: str
    scenario: str
    model: str | None
    architecture: str | None
    proof: str | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    subjects: list[Subject]
    contests: list[Contest]
    served: list[Served] = field(default_factory=list)
    ceilings: list[dict[str, Any]] = field(default_factory=list)
    rooflines: list[Roofline] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema: int = SCHEMA
