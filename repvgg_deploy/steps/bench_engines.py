"""bench, of engines: the fused one that export left against unfused ones built likewise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from ..artifacts import EngineArtifact
from ..engine.gpu import this_gpu
from ..engine.load import read_engine
from ..engine.names import MODULES
from ..errors import UserError
from ..export.graph import to_onnx
from ..models.network import RepVGG
from ..optional import available
from ..runners.tensorrt.runner import EngineRunner
from ..sidecar import read_sidecar
from ..workspace import ModelFolder
from .contest import FUSED, Contest, Progress, hold_contest
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
    """``unfused`` are the networks to hold engines against, by label; ``fused_sha256`` is the hash
    of the weights that an engine has to stem from. ``asked``: what cannot be measured is an error,
    not a note.
    """

    batches: list[int]
    duration: float
    unfused: Mapping[str, RepVGG]
    fused_sha256: str
    build_like: BuildLike | None
    asked: bool
    progress: Progress
    contests: list[Contest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, folder: ModelFolder, flavours: list[str]) -> None:
        """Measure each engine of the folder that is of one of ``flavours``.

        Raises:
            UserError: engines were asked for, and one cannot be measured, or there is none.
        """
        found = False
        for path in folder.engine_files():
            with self._noted(path):
                artifact = read_sidecar(path, EngineArtifact)
                if artifact.flavour in flavours:
                    found = True
                    self._measure(path, artifact)
                elif not self.asked:
                    self.notes.append(f"{path.name}: not measured, {_missing(artifact.flavour)}")
        if self.asked and not found:
            raise UserError(
                f"{folder.path}: holds no {' or '.join(flavours)} engine; make one first: "
                f"repvgg-deploy export --trt fp16 --flavour {flavours[0]}."
            )

    def _measure(self, path: Path, artifact: EngineArtifact) -> None:
        if not any(self.fused_sha256 in step.values() for step in artifact.lineage):
            raise UserError(
                f"{path}: was not built from the fused weights of its folder; export it again."
            )
        with ExitStack() as stack:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            runner = stack.enter_context(EngineRunner(read_engine(path)))
            runners = {
                label: stack.enter_context(EngineRunner(read_engine(engine)))
                for label, engine in self._build_unfused(runner, temporary)
            }
            runners[FUSED] = runner
            image = runner.tensors.image
            _, channels, height, width = image.shape
            for batch in self.batches:
                shape = (batch, channels, height, width)
                with self._noted(path):
                    runner.tensors.pick_profile({image.name: shape})
                    self.contests.append(
                        hold_contest(runner.runtime, runners, shape, self.duration, self.progress)
                    )
            self.notes += [f"{path.name}: {message}" for message in runner.warnings]
            self._note_start(path, runner)

    def _build_unfused(self, runner: EngineRunner, folder: Path) -> Iterator[tuple[str, Path]]:
        """Engines of the unfused networks, with the options of the fused one."""
        path, precision = runner.tensors.path, runner.artifact.precision
        if self.build_like is None or not self.unfused:
            return
        if precision not in TORCH_DTYPE:
            self.notes.append(f"{path.name}: no unfused network of {precision} to compare it with")
            return
        batch, _, height, width = runner.tensors.image.shape
        for number, (label, network) in enumerate(self.unfused.items()):
            model = to_onnx(
                network.cpu(), (height, width), precision=precision, batch=max(batch, 0) or None
            )
            source, engine = folder / f"{number}.onnx", folder / f"{number}.engine"
            onnx.save(model, source)
            try:
                self.build_like(source, engine, runner.artifact)
            except UserError as error:  # its own speed can be measured all the same
                self.notes.append(f"{path.name}: its {label} form could not be built: {error}")
                continue
            yield label, engine

    def _note_start(self, path: Path, runner: EngineRunner) -> None:
        """Only TensorRT-RTX compiles when it starts."""
        if runner.start is None or runner.start.cache_used is None:
            return
        warm = "warm, from the runtime cache" if runner.start.cache_used else "cold"
        self.notes.append(
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
            self.notes.append(f"{path.name}: not measured: {error}")


def _missing(flavour: str) -> str:
    """What this machine lacks to run engines of that flavour."""
    if this_gpu() is None:
        return "it needs a GPU"
    lacking = [name for name in (MODULES[flavour], "pycuda.driver") if available(name) is None]
    return f"{' and '.join(lacking) or flavour} cannot be imported here"
