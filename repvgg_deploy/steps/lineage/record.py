"""What a report holds: ``report.json``, all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...bench.record import Explanation, Failure, Roofline, Served
from ...evaluation.intervals import Interval

SCHEMA = 1

#: ``differs``: it is not what its sidecar says. ``stale``: what it was made from is another now.
#: ``unrecorded``: no sidecar says what it is.
Status = Literal["intact", "differs", "stale", "missing", "unrecorded"]
#: ``not proved``: the proof was left out, or could not be run. ``nothing to prove``: fused before.
Verdict = Literal["proved", "failed", "not proved", "nothing to prove"]


@dataclass(frozen=True)
class FileEntry:
    """A file of the lineage. ``kind`` is checkpoint, fused weights, ONNX model or engine.

    ``source`` is the name of the entry that it was made from, None for the first. ``sha256`` is
    the recorded hash, ``bytes`` the size of what lies there now. ``detail`` says what is wrong, and
    is empty where the file is intact.
    """

    name: str
    kind: str
    precision: str | None
    path: str
    source: str | None
    status: Status
    detail: str
    sha256: str | None
    bytes: int | None
    tool: str | None
    created: str | None


@dataclass(frozen=True)
class Compared:
    """A part of a proof: ``ratio`` is the error over the reference's own rounding error, up to
    ``limit``; None: not finite."""

    name: str
    ratio: float | None
    limit: float | None
    passed: bool


@dataclass(frozen=True)
class Likeness:
    """An int8 model beside the float one, as measured when it was quantized.

    ``sqnr_db`` in decibel (None: no difference at all), ``agreement`` a share, ``top1_drop`` in
    points. Of ``integers`` compared with torch's, ``differing`` differ, by ``largest`` steps at
    most; None where they were not compared. ``held_out``: on other images than were calibrated
    with.
    """

    samples: int
    held_out: bool
    sqnr_db: float | None
    agreement: float | None
    top1_drop: float | None
    integers: int | None
    differing: int | None
    largest: int | None


@dataclass(frozen=True)
class Proof:
    """An arrow from ``source`` to ``target``, which are names of entries, and its stored proof.

    ``algebra`` is the worst block's relative error when folded in float64.
    """

    source: str
    target: str
    verdict: Verdict
    detail: str
    compared: list[Compared]
    algebra: float | None
    likeness: Likeness | None


@dataclass(frozen=True)
class WeightRange:
    """``spread``: the largest output channel's max |w| over the median channel's; None where that
    is 0."""

    minimum: float
    maximum: float
    spread: float | None


@dataclass(frozen=True)
class BlockWeights:
    """Kernels of a block: of all its branches before fusion (None: it came fused), and the one
    after."""

    block: str
    before: WeightRange | None
    after: WeightRange


@dataclass(frozen=True)
class Range:
    minimum: float
    maximum: float


@dataclass(frozen=True)
class BlockActivations:
    """What a block's convolutions give, before its activation function.

    ``branches``: each branch on its own; ``before``: their sum; both None where the checkpoint came
    fused. ``after``: the one convolution.
    """

    block: str
    branches: Range | None
    before: Range | None
    after: Range


@dataclass(frozen=True)
class Ranges:
    """``activations`` are over ``samples`` images of ``images``; empty, and ``without`` says why,
    where there are none."""

    weights: list[BlockWeights]
    activations: list[BlockActivations]
    images: str
    samples: int
    without: str


@dataclass(frozen=True)
class Operators:
    """Counts of one file's operators. ``whole``: of the whole graph, else of its blocks alone."""

    file: str
    whole: bool
    counts: dict[str, int]
    parameters: int | None


@dataclass(frozen=True)
class Timing:
    """A subject in a contest; seconds a step, images a second, and 95 % intervals.

    ``quartiles`` are the 25th and 75th percentile; ``interval`` is of the median, from order
    statistics, None with too few samples, as are ``p90`` and ``p99``. ``ratio`` is the baseline's
    median over this one's (above 1: faster), None for the baseline.
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
    p99: float | None
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
class Speed:
    """What bench.json says. ``outdated`` names files that are others now than were measured;
    ``doubts`` say why times are not to be trusted."""

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
    doubts: list[str]
    notes: list[str]
    outdated: list[str]


@dataclass(frozen=True)
class Accuracy:
    """A network on the images of an evaluation; shares with 95 % intervals."""

    name: str
    file: str
    runtime: str
    samples: int
    top1: Interval | None
    top5: Interval | None
    agreement: Interval
    difference: Interval | None
    sqnr_db: float | None


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate --json`` printed, of this model's files; the first is the reference."""

    path: str
    data: str
    sha256: str
    samples: int
    networks: list[Accuracy]


@dataclass(frozen=True)
class Command:
    """A line that makes ``target`` again. ``recorded``: as it was typed; else put together from the
    sidecar, and ``unknown`` says what that does not hold."""

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
    """A model's whole lineage. A section that is None or empty stands in ``absent``."""

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
    speed: Speed | None
    evaluation: Evaluation | None
    commands: list[Command]
    absent: list[Absent]
    schema: int = SCHEMA

    @property
    def broken(self) -> list[FileEntry]:
        """Files that are not what they should be."""
        return [file for file in self.files if file.status in ("differs", "stale", "missing")]
