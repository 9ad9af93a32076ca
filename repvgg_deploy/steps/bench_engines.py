"""bench, of engines: the fused one that export left against unfused ones built likewise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..artifacts import EngineArtifact, FusedArtifact
from ..bench.record import Subject
from ..engine.gpu import this_gpu
from ..engine.load import read_engine
from ..engine.names import MODULES
from ..errors import CheckFailed, UserError
from ..export.graph import to_onnx
from ..models.network import RepVGG
from ..optional import available
from ..runners.tensorrt.runner import EngineRunner
from ..sidecar import read_sidecar
from ..workspace import ModelFolder
from .bench_faith import Yardstick
from .bench_lane import Lane
from .bench_results import Results
from .bench_subjects import KINDS, Entrant
from .contest import Progress, Rules, hold_contest
from .verify_engine import rounding_of
from .weights import TORCH_DTYPE

#: Builds an engine and its sidecar: (ONNX model, where to, the engine whose options it shall have)
BuildLike = Callable[[Path, Path, EngineArtifact], None]


def engine_runtimes() -> list[str]:
    """The flavours that can run here: a GPU, the runtime and pycuda are there."""
    if this_gpu() is None or available("pycuda.driver") is None:
        return []
    return [flavour for flavour, module in MODULES.items() if available(module) is not None]


@dataclass
class EngineBench:
    """``unfused`` are the networks to hold engines against, by name; ``build_like`` builds theirs,
    and each engine once more for each of ``builds`` beyond the first. ``asked``: what cannot be
    measured is an error, not a note.
    """

    batches: list[int]
    rules: Rules
    unfused: Mapping[str, RepVGG]
    build_like: BuildLike | None
    builds: int
    asked: bool
    yardstick: Yardstick
    progress: Progress
    results: Results

    def run(self, folder: ModelFolder, fused: FusedArtifact, flavours: list[str]) -> None:
        """Measure each engine of the folder that is of one of ``flavours``; it has to stem from
        the ``fused`` weights.

        Raises:
            UserError: engines were asked for, and one cannot be measured, or there is none.
        """
        found = False
        for path in folder.engine_files():
            with self._noted(path):
                artifact = read_sidecar(path, EngineArtifact)
                if artifact.flavour in flavours:
                    found = True
                    if not any(fused.sha256 in step.values() for step in artifact.lineage):
                        raise UserError(
                            f"{path}: was not built from the fused weights of its folder; export "
                            "it again."
                        )
                    self.measure(path, path.name, self.unfused, fused.source.sha256)
                elif not self.asked:
                    missing = _missing(artifact.flavour)
                    self.results.notes.append(f"{path.name}: not measured, {missing}")
        if self.asked and not found:
            raise UserError(
                f"{folder.path}: holds no {' or '.join(flavours)} engine; make one first: "
                f"repvgg-deploy export --trt fp16 --flavour {flavours[0]}."
            )

    def measure(self, path: Path, label: str, unfused: Mapping[str, RepVGG], origin: str) -> None:
        """One engine, with those built for the comparison, at every batch size."""
        with ExitStack() as stack:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            runner = stack.enter_context(EngineRunner(read_engine(path)))
            lanes = []
            for form, engine in self._build(runner, temporary, unfused):
                other = stack.enter_context(EngineRunner(read_engine(engine)))
                kind = KINDS.get(form, "engine")
                lanes.append(_lane(other, f"{label}: {form}", kind, origin))
            built = sum(lane.entrant.subject.kind == "engine" for lane in lanes)
            lanes.insert(len(lanes) - built, _lane(runner, label, "engine", origin))
            for batch in self.batches:
                shape = lanes[0].entrant.images(batch, self.rules.seed).shape
                with self._noted(path):
                    runner.tensors.pick_profile({runner.tensors.image.name: shape})
                    contest, held = hold_contest(
                        runner.runtime, batch, lanes, self.rules, self.yardstick, self.progress
                    )
                    self.results.add(contest, held, lanes)
            self.results.notes += [f"{path.name}: {message}" for message in runner.warnings]
            self._note_start(path, runner)

    def _build(
        self, runner: EngineRunner, folder: Path, unfused: Mapping[str, RepVGG]
    ) -> Iterator[tuple[str, Path]]:
        """Engines of the unfused networks, and the same one again, with the options of this one."""
        if self.build_like is None:
            return
        artifact, path = runner.artifact, runner.tensors.path
        models = dict(_models(runner, folder, unfused))
        if unfused and not models:
            self.results.notes.append(
                f"{path.name}: no unfused network of {artifact.precision} to compare it with"
            )
        source = path.parent / artifact.source.path
        models |= {f"build {number}": source for number in range(2, self.builds + 1)}
        for number, (form, model) in enumerate(models.items()):
            engine = folder / f"{number}.engine"
            try:
                self.build_like(model, engine, artifact)
            except UserError as error:  # the engine's own speed can be measured all the same
                self.results.notes.append(f"{path.name}: {form} could not be built: {error}")
                continue
            except CheckFailed as error:
                self.results.differing.append(f"{path.name}: {form}: {error}")
                continue
            yield form, engine

    def _note_start(self, path: Path, runner: EngineRunner) -> None:
        """Only TensorRT-RTX compiles when it starts."""
        if runner.start is None or runner.start.cache_used is None:
            return
        warm = "warm, from the runtime cache" if runner.start.cache_used else "cold"
        self.results.notes.append(
            f"{path.name}: the first inference took {runner.start.seconds:.2f} s ({warm})"
        )

    @contextmanager
    def _noted(self, path: Path) -> Iterator[None]:
        """What fails inside is a note, unless it was asked for."""
        try:
            yield
        except UserError as error:
            if self.asked:
                raise
            self.results.notes.append(f"{path.name}: not measured: {error}")


def _models(
    runner: EngineRunner, folder: Path, unfused: Mapping[str, RepVGG]
) -> Iterator[tuple[str, Path]]:
    """The unfused networks as ONNX models, where torch has the engine's precision."""
    precision = runner.artifact.precision
    if precision not in TORCH_DTYPE:
        return
    batch, _, height, width = runner.tensors.image.shape
    for number, (form, network) in enumerate(unfused.items()):
        fixed = max(batch, 0) or None
        model = to_onnx(network, (height, width), precision=precision, batch=fixed)
        source = folder / f"{number}.onnx"
        onnx.save(model, source)
        yield form, source


def _lane(runner: EngineRunner, label: str, kind: str, origin: str) -> Lane:
    artifact, path = runner.artifact, runner.tensors.path
    batch, channels, height, width = runner.tensors.image.shape
    subject = Subject(
        label,
        kind,
        artifact.precision,
        (height, width),
        str(path) if kind == "engine" else None,
        artifact.sha256,
        path.stat().st_size,
    )
    source = path.parent / artifact.source.path
    graph = (lambda: source) if source.exists() else None
    entrant = Entrant(subject, origin, channels, graph=graph, batch=batch if batch > 0 else None)
    rounding = "int8" if artifact.precision == "int8" else rounding_of(runner)
    return Lane(entrant, lambda: runner, rounding, "whole")


def _missing(flavour: str) -> str:
    """What this machine lacks to run engines of that flavour."""
    if this_gpu() is None:
        return "it needs a GPU"
    lacking = [name for name in (MODULES[flavour], "pycuda.driver") if available(name) is None]
    return f"{' and '.join(lacking) or flavour} cannot be imported here"
