"""An engine for production use: checked when it is loaded, called from any thread."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import EngineArtifact
from ..engine.load import LoadedEngine, read_engine
from ..errors import UserError
from ..runners.tensorrt.contexts import Contexts, make_contexts
from ..runners.tensorrt.device import gpu_device
from ..runners.tensorrt.dlpack import from_dlpack
from ..runners.tensorrt.io import read_tensors
from ..runners.tensorrt.session import EngineSession, Input, Outputs
from ..runners.tensorrt.tensors import EngineTensor, Shape, shape_text


@dataclass(frozen=True)
class _Live:
    """What goes when an engine is closed. ``cuda_graph``: sessions have to record graphs."""

    loaded: LoadedEngine
    contexts: Contexts
    cuda_graph: bool


class Engine:
    """A TensorRT or TensorRT-RTX engine on the first GPU; use it in a ``with``, or ``close`` it.

    Any number of threads may call it at once. Each call borrows an execution context of its own,
    with its own memory and stream; there are as many as calls were ever under way together. It
    shares the GPU's primary context with torch and CuPy, and leaves their current device alone.

    ``cuda_graph`` launches each inference as one CUDA graph; it is recorded anew whenever a context
    gets another input shape than the time before, so it suits a fixed batch size.

    Warns where TensorRT does, or where the runtime cache of TensorRT-RTX cannot be used.

    Raises:
        UserError: no file or sidecar, or they do not belong together; the engine's TensorRT or
            pycuda is not installed; no GPU; another version, GPU or system than it was built for;
            or TensorRT refuses it.
    """

    def __init__(self, path: str | Path, *, cuda_graph: bool = False) -> None:
        file = read_engine(Path(path))
        self.artifact: EngineArtifact = file.artifact
        self._device = gpu_device()
        with self._device.current():
            loaded = file.deserialize()
            self._tensors = read_tensors(loaded)
            contexts = make_contexts(loaded, cuda_graph, eager=False)
        self._live: _Live | None = _Live(loaded, contexts, cuda_graph and contexts.records)
        self._lock = threading.Lock()
        self._idle: list[EngineSession] = []
        for message in [*contexts.warnings, *loaded.messages.warnings]:
            warnings.warn(f"{path}: {message}", stacklevel=2)

    @property
    def inputs(self) -> tuple[EngineTensor, ...]:
        """Name, dtype, shape (-1 where dynamic) and the range of each profile."""
        return self._tensors.inputs

    @property
    def outputs(self) -> tuple[EngineTensor, ...]:
        """Name, dtype and shape (-1 where dynamic)."""
        return self._tensors.outputs

    def __call__(self, inputs: Any) -> Outputs:
        """One inference: arrays by input name, or the only input, to numpy arrays by output name.

        An array is one of numpy, or any object with ``__dlpack__``: what lies on the GPU is read
        where it lies. Types and shapes have to be the engine's own; nothing is cast.

        Raises:
            UserError: arrays of other names, types or shapes than the engine takes, no profile
                that holds them, too little memory, the engine fails, or it is closed.
        """
        with self._device.current(), self._session() as session:
            given = self._tensors.by_name(inputs)
            outputs, _ = session.run(
                {name: _readable(array, session.stream) for name, array in given.items()}
            )
            return outputs

    def warm_up(self) -> None:
        """Run zeros of the smallest, best and largest shape of every profile.

        What TensorRT-RTX compiles for these is kept in the runtime cache, and what memory they
        need is there afterwards, or is found to be missing.

        Raises:
            UserError: too little memory, or the engine fails.
        """
        with self._device.current(), self._session() as session:
            for shapes in self._warm_up_shapes():
                session.run({t.name: np.zeros(shapes[t.name], t.dtype) for t in self.inputs})
            with self._lock:
                self._opened().contexts.save()

    def close(self) -> None:
        """Give the GPU memory back, of calls under way when they end. Safe to call twice."""
        with self._device.current(), self._lock:
            live, self._live = self._live, None
            if live is not None:
                live.contexts.save()
            while self._idle:
                self._idle.pop().close()
            del live  # the engine goes while the CUDA context is current

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        takes = ", ".join(f"{t.name} {t.dtype} {shape_text(t.shape)}" for t in self.inputs)
        return f"<Engine {self._tensors.path} ({self.artifact.flavour}): {takes}>"

    @contextmanager
    def _session(self) -> Iterator[EngineSession]:
        """A session that no other call uses meanwhile.

        What execution contexts were made with is kept until this one is closed or given back: that
        may be after ``close``, and TensorRT-RTX's runtime cache has to outlive them.
        """
        with self._lock:
            live = self._opened()
            session = self._idle.pop() if self._idle else None
        if session is None:  # made beside other calls: TensorRT-RTX compiles here, for seconds
            session = self._new_session(live)
        try:
            yield session
        except UserError:  # found before it ran, or the next one will say the same
            self._give_back(session)
            raise
        except BaseException:  # interrupted, or CUDA failed: nobody shall meet its state again
            session.close()
            raise
        self._give_back(session)

    def _new_session(self, live: _Live) -> EngineSession:
        context = live.contexts.make()
        return EngineSession(live.loaded, self._tensors, context, self._device, live.cuda_graph)

    def _give_back(self, session: EngineSession) -> None:
        with self._lock:
            if self._live is not None:
                self._idle.append(session)
                return
        session.close()

    def _opened(self) -> _Live:
        if self._live is None:
            raise UserError(f"{self._tensors.path}: the engine is closed; open it again.")
        return self._live

    def _warm_up_shapes(self) -> Iterator[dict[str, Shape]]:
        """Input shapes by name: smallest, best and largest of each profile, each once."""
        profiles = range(len(self.inputs[0].ranges)) if self.inputs else range(0)
        seen = []
        for profile in profiles:
            for end in ("min", "opt", "max"):
                shapes = {t.name: getattr(t.ranges[profile], end) for t in self.inputs}
                if shapes not in seen:
                    seen.append(shapes)
                    yield shapes


def _readable(array: Any, stream: int) -> Input:
    """A numpy array as it is, any other by DLPack."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "__dlpack__"):
        return from_dlpack(array, stream)
    raise UserError(
        f"an input is a {type(array).__name__}; give a numpy array, or an object with __dlpack__."
    )
