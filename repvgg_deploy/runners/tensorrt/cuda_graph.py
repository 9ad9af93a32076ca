"""CUDA graphs by the driver's own functions, since pycuda (2026.1) has none.

Names and signatures: CUDA driver API, "Stream Management" and "Graph Management"; CUDA 11.4 or
newer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from ...engine.gpu import driver
from ...errors import UserError

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating
_Handle = ctypes.c_void_p


class CudaGraph:
    """Work that ``record`` put on a stream, kept to be launched as one.

    ``stream`` is a stream's handle; the CUDA context has to be current here, in ``launch`` and in
    ``free``. Nothing runs while it is recorded.

    Raises:
        UserError: the work cannot be recorded, as where it waits for the GPU in its midst.
    """

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        cuda = driver()
        if cuda is None:
            raise UserError("CUDA graphs need the CUDA driver, and none is installed here.")
        self._cuda = cuda
        graph, self._graph = _Handle(), _Handle()
        self._call("cuStreamBeginCapture_v2", _Handle(stream), ctypes.c_int(_THREAD_LOCAL))
        try:
            record()
        except BaseException:
            cuda.cuStreamEndCapture(_Handle(stream), ctypes.byref(graph))
            cuda.cuGraphDestroy(graph)
            raise
        self._call("cuStreamEndCapture", _Handle(stream), ctypes.byref(graph))
        try:
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._graph),
                graph,
                ctypes.c_ulonglong(0),
            )
        finally:
            cuda.cuGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        """All of the work once, in the order of ``stream``."""
        self._call("cuGraphLaunch", self._graph, _Handle(stream))

    def free(self) -> None:
        """Give it back. Safe to call twice."""
        if self._graph:
            self._cuda.cuGraphExecDestroy(self._graph)
        self._graph = _Handle()

    def _call(self, function: str, *arguments: object) -> None:
        error = getattr(self._cuda, function)(*arguments)
        if error:
            raise UserError(
                f"the inference cannot be kept as a CUDA graph ({function} says error {error}); "
                "run it without."
            )
