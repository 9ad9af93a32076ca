"""The parts of a report that come from files and sidecars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...equivalence.truth import TruthCheck

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

    ``sqnr_db`` in decibel (None: exact, the outputs are equal; -1000: NaN or infinity),
    ``agreement`` a share, ``top1_drop`` in points. Of ``integers`` compared with torch's,
    ``differing`` differ, by ``largest`` steps at most; None where they were not compared.
    ``held_out``: on other images than were calibrated with.
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

    ``algebra`` is the worst block's relative error when folded in float64. ``truth`` is how the
    target compares with recorded outputs of the user's own model, None where none were given.
    """

    source: str
    target: str
    verdict: Verdict
    detail: str
    compared: list[Compared]
    algebra: float | None
    likeness: Likeness | None
    truth: TruthCheck | None = None


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
    """``activations`` are over ``samples`` images of ``images``; ``without`` says what is not there
    and why."""

    weights: list[BlockWeights]
    activations: list[BlockActivations]
    images: str
    samples: int
    without: list[str]


@dataclass(frozen=True)
class Operators:
    """Counts of one file's operators. ``whole``: of the whole graph, else of its blocks alone."""

    file: str
    whole: bool
    counts: dict[str, int]
    parameters: int | None
