"""Networks of any kind of file that answer images, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.image_set import BATCH
from ..engine.load import CheckedEngine
from ..errors import UserError
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import Runner, run
from ..runners.tensorrt.runner import EngineRunner
from ..runners.torch_network import TorchRunner
from ..sidecar import check_bytes, lineage, sidecar_path
from ..workspace import ModelFolder
from .assumptions import find_assumptions
from .verify import Subject, average_where_held, open_subject, source_checkpoint
from .weights import BY_ITSELF, Reading


@dataclass(frozen=True)
class Entry:
    """A file to be evaluated; ``asked``: the user named it."""

    name: str
    path: Path
    open: Callable[[], Subject]
    asked: bool


@dataclass(frozen=True)
class Candidate:
    """A loaded network. ``takes`` is [C, H, W], None where any will do; ``least`` and ``most``
    images at once."""

    name: str
    path: Path
    runner: Runner
    how: str
    takes: tuple[int | None, int | None, int | None]
    least: int
    most: int

    def answer(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, C, H, W] -> logits [n, classes]; the last batch is filled up where it has to be.

        Raises:
            UserError: the network fails, or is none of classification.
        """
        parts = [images[start : start + self.most] for start in range(0, len(images), self.most)]
        return np.concatenate([self._answer(part) for part in parts])

    def _answer(self, part: NDArray[np.float32]) -> NDArray[np.float64]:
        missing = max(self.least - len(part), 0)
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
        logits = run(self.runner, filled)
        if len(logits) != len(filled) or logits.shape[1] == 0:
            raise UserError(
                f"{self.path}: gives {logits.shape} for {len(filled)} images; only classification "
                "networks, [batch, classes], can be evaluated."
            )
        return logits[: len(part)]


def named_entries(paths: Sequence[Path], reading: Reading) -> list[Entry]:
    """Files that the user names; ``reading`` says how checkpoints are read."""
    lenient = average_where_held(reading)
    return [Entry(str(path), path, _opening(path, lenient), asked=True) for path in paths]


def model_entries(folder: ModelFolder) -> list[Entry]:
    """Everything of a model: its checkpoint, the fused weights, ONNX models and engines.

    Raises:
        UserError: a file is not what its sidecar describes.
    """
    fused = folder.read_fused()
    entries = []
    if fused.source_form == "train":
        checkpoint = Path(fused.source.path)
        reading = Reading.of(fused)
        entries.append(
            Entry(
                f"{checkpoint.name} (unfused)",
                checkpoint,
                lambda: open_subject(source_checkpoint(fused), reading),
                asked=False,
            )
        )
    ours = [path for path in sorted(folder.path.glob("*.onnx")) if path != folder.fused_onnx]
    exported = folder.onnx_files()
    quantized = [p for p in ours if p not in exported and sidecar_path(p).exists()]
    for path in (folder.fused, *exported, *quantized, *folder.engine_files()):
        check_bytes(path)
        origins = {source.sha256 for source in lineage(path)}
        stale = path != folder.fused and bool(origins) and fused.sha256 not in origins
        entries.append(Entry(path.name, path, _refusing(path) if stale else _opening(path), False))
    return entries


def load_candidate(entry: Entry, device: torch.device, stack: ExitStack) -> Candidate:
    """Load what the entry names; ``stack`` closes it. Torch networks run on ``device``, ONNX
    models on the CPU, engines on the GPU.

    Raises:
        UserError: it cannot be loaded here.
    """
    subject = entry.open()
    if isinstance(subject, CheckedEngine):
        return _of_engine(entry, stack.enter_context(EngineRunner(subject)))
    if isinstance(subject, OnnxInfo):
        return _of_onnx(entry, subject)
    network = subject.network
    runner = TorchRunner(network.build(), device)
    takes = (network.spec.in_channels, None, None)
    assumed = find_assumptions(subject).assumed_strides
    how = f"{runner.runtime}, strides {assumed} assumed" if assumed else runner.runtime
    return Candidate(entry.name, entry.path, runner, how, takes, 1, BATCH)


def _of_onnx(entry: Entry, info: OnnxInfo) -> Candidate:
    takes = (info.channels, info.height, info.width)
    least, most = (1, BATCH) if info.batch is None else (info.batch, info.batch)
    if info.precision == "bf16":  # which ONNX Runtime has no convolution of on the CPU
        wide: bytes = widened(load_model(info.path)).SerializeToString()
        runner = OrtRunner(wide)
        how = f"{runner.runtime}, bf16 weights in float32"
    else:
        runner = OrtRunner(info.path, optimize=not info.quantized)
        how = f"{runner.runtime}, not optimized" if info.quantized else runner.runtime
    return Candidate(entry.name, entry.path, runner, how, takes, least, most)


def _of_engine(entry: Entry, runner: EngineRunner) -> Candidate:
    image = runner.tensors.image
    channels, height, width = (None if side < 0 else side for side in image.shape[1:])
    profile = max(image.ranges, key=lambda held: held.max[0])
    least, most = profile.min[0], min(profile.max[0], max(BATCH, profile.min[0]))
    takes = (channels, height, width)
    return Candidate(entry.name, entry.path, runner, runner.runtime, takes, least, most)


def _refusing(path: Path) -> Callable[[], Subject]:
    """For a file that other weights went into: its answers are not those of this model."""

    def refused() -> Subject:
        raise UserError(
            f"{path}: was not made from the fused weights of its folder; run the step that makes "
            "it again."
        )

    return refused


def _opening(path: Path, reading: Reading = BY_ITSELF) -> Callable[[], Subject]:
    """Open the file at ``path``; if it has a sidecar, that has to be its own."""

    def opened() -> Subject:
        check_bytes(path)
        return open_subject(path, reading)

    return opened
