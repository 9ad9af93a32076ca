"""An engine file and its sidecar, checked, then deserialized; each failure in one sentence."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import cast

from ..artifacts import EngineArtifact
from ..errors import UserError
from ..files import read_error
from ..optional import require
from ..sidecar import read_sidecar
from . import api
from .compatible import differences
from .gpu import Gpu, absence, this_gpu
from .logger import make_logger
from .messages import explain
from .module import TensorRT
from .names import MODULES, NAMES

#: CUDA versions that TensorRT's packages are named after, as in tensorrt_cu13.
_CUDA_MAJORS = range(12, 16)


class Messages:
    """What the runtime said last. An engine may run for months, so not all of it is kept."""

    def __init__(self) -> None:
        self._said: deque[tuple[str, str]] = deque(maxlen=20)

    def add(self, severity: str, message: str) -> None:
        if severity in ("warning", "error"):
            self._said.append((severity, message))

    @property
    def last_error(self) -> str:
        errors = [message for severity, message in self._said if severity == "error"]
        return errors[-1] if errors else ""

    @property
    def warnings(self) -> list[str]:
        return [message for severity, message in self._said if severity == "warning"]


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialized engine. ``keep`` holds what TensorRT needs as long as the engine lives."""

    path: Path
    artifact: EngineArtifact
    trt: TensorRT
    gpu: Gpu
    engine: api.ICudaEngine
    messages: Messages
    keep: tuple[object, ...] = field(repr=False)

    def failed(self, what: str) -> UserError:
        """``what`` went wrong, with what the runtime said of it."""
        return UserError(f"{self.path}: {what}: {explain(self.messages.last_error, self.gpu)}.")


@dataclass(frozen=True)
class CheckedEngine:
    """An engine that should load on this machine, by its sidecar. ``data`` are its bytes."""

    path: Path
    artifact: EngineArtifact
    trt: TensorRT
    gpu: Gpu
    data: bytes = field(repr=False)

    def deserialize(self) -> LoadedEngine:
        """The engine on the GPU of the current CUDA context.

        A version-compatible engine brings its own lean runtime along: host code, which TensorRT
        runs. That is allowed only where the sidecar says that the engine is one and these bytes
        are those it describes, so that no file slipped into a folder runs code here. Whoever can
        write the sidecar as well can do as they like: load engines from people you trust.

        Raises:
            UserError: TensorRT refuses it; with TensorRT's words.
        """
        name, messages = NAMES[self.artifact.flavour], Messages()
        logger = make_logger(self.trt, messages.add)
        try:
            runtime = self.trt.Runtime(logger)
        except (TypeError, RuntimeError) as error:  # pybind11 for a null pointer: CUDA is unusable
            words = messages.last_error or str(error)
            raise UserError(
                f"{self.path}: {name}'s runtime does not start: {explain(words, self.gpu)}."
            ) from error
        if self.artifact.options.get("version_compatible") is True and self._is_described():
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(self.data)
        if engine is None:
            raise UserError(
                f"{self.path}: {name} {self.trt.__version__} does not load it: "
                f"{explain(messages.last_error, self.gpu)}."
            )
        keep = (runtime, logger)
        return LoadedEngine(self.path, self.artifact, self.trt, self.gpu, engine, messages, keep)

    def _is_described(self) -> bool:
        """Of the bytes at hand, since the file may have changed after its sidecar was checked."""
        return hashlib.sha256(self.data).hexdigest() == self.artifact.sha256


def read_engine(path: Path) -> CheckedEngine:
    """Read an engine that has a sidecar, after all checks that need no CUDA context.

    Raises:
        UserError: no file or sidecar, or they do not belong together; the engine's TensorRT is not
            installed; no GPU; or the engine is for another version, GPU or system.
    """
    artifact = read_sidecar(path, EngineArtifact)
    module, name = MODULES[artifact.flavour], NAMES[artifact.flavour]
    gpu = this_gpu()
    if gpu is None:
        raise UserError(
            f"{path}: an engine runs on an NVIDIA GPU only, and {absence()}; use the ONNX model "
            "it was built from."
        )
    try:
        trt = cast(TensorRT, require(module))
    except UserError as error:
        raise UserError(f"{path}: cannot be loaded: {error}") from error
    if differing := differences(artifact, trt.__version__, gpu):
        raise UserError(
            f"{path}: does not load here, since {' and '.join(differing)}; export it again on "
            "this machine."
        )
    needed = _needed_cuda(module)
    if needed is not None and int(gpu.cuda.split(".")[0]) < needed:
        raise UserError(
            f"{path}: the driver is too old: it supports CUDA {gpu.cuda}, and the installed {name} "
            f"needs {needed}.0; install a newer driver."
        )
    try:
        return CheckedEngine(path, artifact, trt, gpu, path.read_bytes())
    except OSError as error:
        raise read_error(path, error) from error


def _needed_cuda(module: str) -> int | None:
    """The CUDA major version that an installed TensorRT was built for, by its package's name."""
    for major in _CUDA_MAJORS:
        try:
            metadata.version(f"{module}_cu{major}")
        except metadata.PackageNotFoundError:
            continue
        return major
    return None
