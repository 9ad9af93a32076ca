"""What a report holds: ``report.json``, all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...bench.conditions import Conditions
from ...bench.record import Explanation, Failure, Memory, Roofline, Served
from ...evaluation.intervals import Interval
from ...train.record import TrainRecord
from .parts import FileEntry, Operators, Proof, Ranges

SCHEMA = 2


@dataclass(frozen=True)
class Timing:
    """A subject in a contest; seconds a step, images a second, and 95 % intervals.

    ``quartiles`` are the 25th and 75th percentile; ``interval`` is of the median, from order
    statistics, None with too few samples, as are the percentiles. ``outliers`` lie beyond Tukey's
    fences. ``transfer`` is the median of copying to the GPU and back, which the times leave out.
    ``ratio`` is the baseline's median over this one's (above 1: faster), None for the baseline.
    """

    runtime: str
    batch: int
    label: str
    kind: str
    precision: str
    file: str | None
    samples: int
    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float] | None
    p90: float | None
    p95: float | None
    p99: float | None
    outliers: int
    transfer: float | None
    memory: Memory | None
    images_per_second: float
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    steady: bool


@dataclass(frozen=True)
class ContestFailure:
    runtime: str
    batch: int
    failure: Failure


@dataclass(frozen=True)
class Doubt:
    """Why the times of a contest are not to be trusted."""

    runtime: str
    batch: int
    text: str


@dataclass(frozen=True)
class Circumstances:
    """What the machine was like during a contest."""

    runtime: str
    batch: int
    conditions: Conditions


@dataclass(frozen=True)
class Speed:
    """What bench.json says. ``outdated`` names files that are others now than were measured."""

    command: str
    scenario: str
    sha256: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    baseline: str | None
    timings: list[Timing]
    failures: list[ContestFailure]
    served: list[Served]
    ceilings: list[dict[str, Any]]
    rooflines: list[Roofline]
    explanations: list[Explanation]
    doubts: list[Doubt]
    circumstances: list[Circumstances]
    notes: list[str]
    outdated: list[str]


@dataclass(frozen=True)
class Accuracy:
    """A network on the images of an evaluation; shares with 95 % intervals. ``changed``: the file
    is another now; None where the evaluation did not record its hash. ``sqnr_db`` in decibel is of
    the logits beside the reference's (None: exact, they are equal; -1000: NaN or infinity)."""

    name: str
    file: str
    changed: bool | None
    runtime: str
    samples: int
    top1: Interval | None
    top5: Interval | None
    agreement: Interval
    difference: Interval | None
    sqnr_db: float | None


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found of this model's files; the first is the reference. ``left_out`` are
    the reasons for which others could not be run."""

    path: str
    data: str
    sha256: str
    samples: int
    preprocessing: dict[str, Any]
    networks: list[Accuracy]
    left_out: list[str]


@dataclass(frozen=True)
class Training:
    """The run that made a checkpoint, as ``path`` beside it says; ``checkpoint`` is its name."""

    path: str
    sha256: str
    checkpoint: str
    record: TrainRecord


@dataclass(frozen=True)
class Command:
    """A line that makes ``target`` again. ``recorded``: as it was typed; else it is put together
    from what is recorded, and ``unknown`` says what is not."""

    target: str
    line: str
    recorded: bool
    unknown: str


@dataclass(frozen=True)
class Absent:
    """A section that has nothing to show: why, and the command that makes it."""

    section: str
    reason: str
    command: str


@dataclass(frozen=True)
class Report:
    """A model's whole lineage. A section that is None or empty stands in ``absent``, but for
    ``int8_training`` of a model that was not trained for int8."""

    model: str
    architecture: str
    family: str
    created: str
    tool: str
    system: dict[str, str]
    files: list[FileEntry]
    proofs: list[Proof]
    ranges: Ranges
    operators: list[Operators]
    training: Training | None
    int8_training: Training | None
    speed: Speed | None
    evaluation: Evaluation | None
    commands: list[Command]
    absent: list[Absent]
    schema: int = SCHEMA

    @property
    def broken(self) -> list[FileEntry]:
        """Files that are not what they should be."""
        return [file for file in self.files if file.status in ("differs", "stale", "missing")]
