"""A TensorRT or TensorRT-RTX engine as a runner; the flavour is that of the engine's sidecar."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...engine.load import CheckedEngine
from ...errors import UserError
from ..protocol import Array
from .contexts import Contexts, make_contexts
from .device import gpu_device
from .io import read_tensors
from .session import EngineSession, Outputs
from .stream import Times

_FLOAT_KINDS = "fV"  # bfloat16 and the like are "V" to numpy


@dataclass(frozen=True)
class Start:
    """``seconds``, on the host's clock, for making the context and for the first inference.

    TensorRT-RTX compiles kernels in these: ``cache_used`` tells a warm start from a cold one. None:
    TensorRT, which compiles none.
    """

    seconds: float
    cache_used: bool | None


@dataclass(frozen=True)
class _Live:
    """What goes when the runner is closed."""

    contexts: Contexts
    session: EngineSession


class EngineRunner:
    """An engine in one execution context on the first GPU; use it in a ``with``, or ``close`` it.

    ``file`` is what ``read_engine`` read. ``cuda_graph`` launches the inference as one CUDA graph,
    without the cost of launching every kernel; it is recorded for each new input shape. ``start``
    is None before the first inference.

    Raises:
        UserError: the engine does not load here, or pycuda does not.
    """

    def __init__(self, file: CheckedEngine, *, cuda_graph: bool = False) -> None:
        self.artifact = file.artifact
        self.runtime = f"{file.artifact.flavour} {file.artifact.precision}"
        self.start: Start | None = None
        self._device = gpu_device()
        with self._device.current():
            loaded = file.deserialize()
            self.tensors = read_tensors(loaded)
            contexts = make_contexts(loaded, cuda_graph, eager=True)
            begin = time.perf_counter()
            context = contexts.make()
            self._making = time.perf_counter() - begin
            records = cuda_graph and contexts.records
            session = EngineSession(loaded, self.tensors, context, self._device, records)
        self._live: _Live | None = _Live(contexts, session)
        self._noted = (contexts.warnings, loaded.messages)

    @property
    def warnings(self) -> list[str]:
        """What the runtime and its cache warned of."""
        cache, messages = self._noted
        return [*cache, *messages.warnings]

    def run(self, batch: Array | Mapping[str, Array]) -> tuple[Outputs, Times]:
        """Arrays by input name, or the array of the only input, to outputs by name and times.

        Raises:
            UserError: arrays of other names, types or shapes than the engine takes, no profile
                that holds them, too little memory, or the engine fails.
        """
        inputs = self.tensors.by_name(batch)
        with self._in_use() as live, self._noting_the_start(live):
            return live.session.run(inputs)

    def load(self, batch: Array) -> None:
        """Place a batch for ``step``; a float batch is cast to the float type of the input."""
        inputs = self.tensors.by_name(batch)
        dtype = self.tensors.inputs[0].dtype
        if batch.dtype.kind == "f" and dtype.kind in _FLOAT_KINDS:
            inputs = {name: array.astype(dtype) for name, array in inputs.items()}
        with self._in_use() as live:
            live.session.load(inputs)
            live.session.wait()

    def step(self) -> None:
        """One inference of the loaded batch, without transfers; complete when this returns."""
        with self._in_use() as live, self._noting_the_start(live):
            live.session.compute()
            live.session.wait()

    def output(self) -> NDArray[np.float64]:
        """The only output of the last step."""
        with self._in_use() as live:
            outputs = list(live.session.fetch().values())
        if len(outputs) != 1:
            raise UserError(f"{self.tensors.path}: has {len(outputs)} outputs; one is wanted.")
        return np.asarray(outputs[0], dtype=np.float64)

    def close(self) -> None:
        """Keep the runtime cache, and give all GPU memory back. Safe to call twice."""
        if self._live is None:
            return
        with self._in_use() as live:
            live.contexts.save()
            live.session.close()
            self._live = None
            del live  # the engine goes after its execution context, and while CUDA's is current

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _in_use(self) -> Iterator[_Live]:
        if self._live is None:
            raise UserError(f"{self.tensors.path}: the engine is closed; open it again.")
        with self._device.current():
            yield self._live

    @contextmanager
    def _noting_the_start(self, live: _Live) -> Iterator[None]:
        """Around an inference; the first one is the start, and leaves a runtime cache behind."""
        begin = time.perf_counter()
        yield
        if self.start is None:
            seconds = self._making + time.perf_counter() - begin
            self.start = Start(seconds, live.contexts.cache_used)
            live.contexts.save()
