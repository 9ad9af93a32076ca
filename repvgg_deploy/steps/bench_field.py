"""bench: what was asked for, and who takes part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bench.environment import doubts
from ..bench.record import on_gpu
from ..engine.load import CheckedEngine
from ..errors import UserError
from ..runners.onnx_info import OnnxInfo
from ..sidecar import check_bytes
from ..workspace import ModelFolder
from .assumptions import find_assumptions
from .bench_engines import engine_runtimes
from .bench_model import ModelSubjects, model_subjects
from .bench_runtimes import (
    ENGINE_RUNTIMES,
    IN_FLIGHT,
    ON_REQUEST,
    ONNX_RUNTIMES,
    missing_note,
    runtimes_present,
)
from .bench_server import Load
from .bench_subjects import Entrant, Size, onnx_entrant, reference_entrants, weights_entrant
from .verify import open_subject
from .weights import TORCH_DTYPE

#: (height, width) of reference networks where there is no model to take it from.
_REFERENCE_SIZE = (224, 224)


@dataclass(frozen=True)
class Settings:
    """What the user asked for. ``duration`` is in seconds, for each runtime and batch size;
    ``runtimes`` and ``precisions`` empty: all; ``baseline`` None: the first, which is the unfused
    network where there is one. ``image_size`` is (height, width). ``load`` is of the server
    scenario alone."""

    batches: list[int]
    duration: float
    threads: int
    runtimes: list[str] = field(default_factory=list)
    precisions: list[str] = field(default_factory=list)
    scenario: str = "latency"
    image_size: Size | None = None
    baseline: str | None = None
    references: list[str] = field(default_factory=list)
    seed: int = 0
    builds: int = 1
    load: Load | None = None
    roofline: bool = True

    @property
    def in_flight(self) -> bool:
        """Whether several batches may be in flight."""
        return self.scenario == "throughput"


@dataclass(frozen=True)
class Field:
    """All that takes part: the model of the workspace, if any, every network and ONNX model, and
    the engines that the user names. ``notes`` say what was assumed of named files."""

    model: ModelSubjects | None
    entrants: list[Entrant]
    engines: list[CheckedEngine]
    notes: list[str] = field(default_factory=list)


def enter(settings: Settings, folder: ModelFolder | None, files: Sequence[Path]) -> Field:
    """The model in ``folder``, then the named files, then the references.

    Raises:
        UserError: a file that cannot be used, nothing of the precisions that were asked for, a
            baseline that takes no part, or --builds of no engine.
    """
    size, precisions = settings.image_size, settings.precisions
    model = None if folder is None else model_subjects(folder, size, precisions)
    size = size if model is None else model.size
    entrants = [] if model is None else list(model.entrants)
    floats = [p for p in precisions if p in TORCH_DTYPE] if precisions else ["fp32"]
    engines, notes = [], []
    for path in files:
        check_bytes(path)
        subject = open_subject(path)
        if isinstance(subject, CheckedEngine):
            engines.append(subject)
        elif isinstance(subject, OnnxInfo):
            entrants.append(onnx_entrant(path, str(path)))
        else:
            entrants += [weights_entrant(subject, size, precision) for precision in floats]
            if assumed := find_assumptions(subject).assumed_strides:
                notes.append(f"{path}: strides {assumed} are assumed, since the file does not say")
    if entrants and size is None:
        size = entrants[0].subject.image_size
    entrants += reference_entrants(settings.references, floats, size or _REFERENCE_SIZE)
    if precisions:
        entrants = [one for one in entrants if one.subject.precision in precisions]
    entered = Field(model, entrants, engines, notes)
    _check(entered, settings)
    if settings.builds > 1:
        _check_builds(entered, settings)
    return entered


def _check(entered: Field, settings: Settings) -> None:
    labels = [entrant.label for entrant in entered.entrants]
    engines = [] if entered.model is None else entered.model.folder.engine_files()
    if not labels and not engines and not entered.engines:
        raise UserError(
            f"nothing here is of the precision {' or '.join(settings.precisions)}; leave out "
            "--precision, or export or quantize first."
        )
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"{twice[0]}: is named twice; name it once.")
    known = [*labels, *(path.name for path in engines), *(str(e.path) for e in entered.engines)]
    baseline = settings.baseline
    if baseline is not None and not {baseline, baseline.split(": ")[0]}.intersection(known):
        there = ", ".join(map(repr, known))
        raise UserError(f"--baseline {baseline}: nothing here has that label; there are {there}.")


def _check_builds(entered: Field, settings: Settings) -> None:
    of_model = [] if entered.model is None else entered.model.folder.engine_files()
    usable = set(engine_runtimes()).intersection(settings.runtimes or ENGINE_RUNTIMES)
    if not entered.engines and not (of_model and usable):
        raise UserError("--builds has no effect here: no engine can be measured; leave it out.")


def first_notes(settings: Settings, entered: Field, runtimes: Sequence[str]) -> Iterator[str]:
    """What has to be known of the run as a whole."""
    if entered.model is not None:
        yield from entered.model.notes
    yield from entered.notes
    if not settings.runtimes and (note := missing_note()):
        yield note
    if not settings.runtimes and set(ON_REQUEST).issubset(runtimes_present()):
        yield f"{', '.join(ON_REQUEST)}: compiles for minutes; measured where --runtime asks for it"
    if not all(map(on_gpu, runtimes)):
        yield from doubts(settings.threads)
    if "openvino" in runtimes:
        yield "openvino: floats are computed in float32 (INFERENCE_PRECISION_HINT f32)"
    on_cpu = {"onnxruntime-cpu", "openvino"}.intersection(runtimes)
    if on_cpu and any(one.subject.precision == "bf16" for one in entered.entrants):
        yield f"{' and '.join(sorted(on_cpu))}: bf16 weights are computed in float32"
    serial = [name for name in runtimes if name not in IN_FLIGHT]
    if settings.in_flight and serial:
        yield f"one batch after the other, not several in flight: {', '.join(serial)}"
    if settings.load is not None and (entered.engines or not settings.runtimes):
        yield "the server scenario measures no engines"
    unused = set(ONNX_RUNTIMES).isdisjoint(runtimes)
    alone = [one.label for one in entered.entrants if one.network is None]
    if unused and alone:
        yield f"not measured, since no ONNX runtime takes part: {', '.join(alone)}"
