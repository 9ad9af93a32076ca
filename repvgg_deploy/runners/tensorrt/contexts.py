"""How execution contexts are made: plainly by TensorRT, with a runtime cache by TensorRT-RTX."""

from __future__ import annotations

from typing import Protocol, cast

from ...engine import api, rtx_api
from ...engine.load import LoadedEngine
from .runtime_cache import RuntimeCacheFile


class Contexts(Protocol):
    """Makes contexts of one engine, with its CUDA context current.

    Several may run one optimization profile at once: since TensorRT 10 they share profiles, always
    (NvInfer.h, PreviewFeature::kPROFILE_SHARING_0806), whatever an older line of its header says.

    ``records``: the session has to record CUDA graphs itself, if they are wanted. ``cache_used``:
    the runtime took kernels from its cache; None where it has none, since none are compiled.
    """

    records: bool

    @property
    def cache_used(self) -> bool | None: ...
    @property
    def warnings(self) -> list[str]: ...
    def make(self) -> api.IExecutionContext: ...
    def save(self) -> None:
        """Keep what was compiled for the next start."""


class TensorRTContexts:
    """All kernels are in the engine."""

    records = True
    cache_used = None

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self.warnings: list[str] = []

    def make(self) -> api.IExecutionContext:
        """A new context; UserError where memory is too small."""
        return _made(self._loaded, self._loaded.engine.create_execution_context())

    def save(self) -> None:
        """Nothing was compiled."""


class RtxContexts:
    """Kernels are compiled when contexts are made and run; one cache serves all contexts.

    ``cuda_graph`` lets TensorRT-RTX record its graphs itself. ``eager``: the first inference of a
    shape waits for the kernels tuned for it, as a measurement wants it; else they are compiled
    beside, and more general ones run until then.
    """

    records = False

    def __init__(self, loaded: LoadedEngine, cuda_graph: bool, eager: bool) -> None:
        self._loaded = loaded
        trt = cast(rtx_api.TensorRTRTX, loaded.trt)
        self._engine = cast(rtx_api.ICudaEngine, loaded.engine)
        self._config = self._engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        self._file = RuntimeCacheFile(loaded.path)
        self._file.fill(self._cache)
        if not self._config.set_runtime_cache(self._cache):
            raise loaded.failed("its runtime cache cannot be used")
        if cuda_graph:
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if eager:
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            self._config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER

    @property
    def cache_used(self) -> bool:
        return self._file.used

    @property
    def warnings(self) -> list[str]:
        return self._file.warnings

    def make(self) -> api.IExecutionContext:
        """A new context; UserError where memory is too small."""
        return _made(self._loaded, self._engine.create_execution_context(self._config))

    def save(self) -> None:
        """Into the file beside the engine."""
        self._file.save(self._cache)


def make_contexts(loaded: LoadedEngine, cuda_graph: bool, eager: bool) -> Contexts:
    """By the engine's flavour; ``eager`` matters to TensorRT-RTX alone."""
    if loaded.artifact.flavour == "rtx":
        return RtxContexts(loaded, cuda_graph, eager)
    return TensorRTContexts(loaded)


def _made(loaded: LoadedEngine, context: api.IExecutionContext | None) -> api.IExecutionContext:
    if context is None:
        raise loaded.failed("TensorRT makes no execution context for it")
    # Engines are built with details for the inspector; as markers for a profiler they cost time in
    # each inference (IExecutionContext::setNvtxVerbosity).
    context.nvtx_verbosity = loaded.trt.ProfilingVerbosity.NONE
    return context
