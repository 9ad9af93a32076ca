"""torch's faster ways to run a module: compiled, and as one CUDA graph."""

from __future__ import annotations

import os
import shutil
import sys
import time

import torch
from torch import Tensor, nn

from ..errors import UserError
from .protocol import Array
from .torch_network import TorchCudaRunner, TorchRunner

#: torch keeps a compiled form for each network and batch size, and by default eight of them; what
#: comes after would run uncompiled. ``fullgraph`` makes that an error, so this is never silent.
_FORMS = 1024


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile will call on the CPU, None where there is none."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if sys.platform == "win32":
        names = ["cl"]
    return next(filter(None, map(shutil.which, names)), None)


class CompiledRunner(TorchRunner):
    """torch.compile for the exact shape of each batch; ``load`` compiles."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__(network, device)
        self.runtime = f"torch.compile ({device.type})"
        self._network = torch.compile(self._network, dynamic=False, fullgraph=True)
        self.compile_seconds = 0.0

    def load(self, batch: Array) -> None:
        super().load(batch)
        begin = time.perf_counter()
        try:
            with torch._dynamo.config.patch(recompile_limit=_FORMS):
                self.step()
        except MemoryError:
            raise
        except Exception as error:  # compilers fail in many ways, each with a page of text
            raise UserError(f"torch.compile fails: {_reason(error)}") from error
        self.compile_seconds = time.perf_counter() - begin


def _reason(error: Exception) -> str:
    """The first line that says something; a heading ("backend='inductor' raised:") does not."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith("raised:")]
    return telling[0][:300] if telling else type(error).__name__


class CompiledCudaRunner(CompiledRunner, TorchCudaRunner):
    """The same on a GPU."""


class CudaGraphRunner(TorchCudaRunner):
    """The eager network recorded once for each batch, then launched as one."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__(network, device)
        self.runtime = "CUDA graph (torch)"

    @torch.inference_mode()
    def load(self, batch: Array) -> None:
        """Three runs on a stream of their own come first, as torch's documentation has it."""
        super().load(batch)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._network(self._input)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._recorded = self._network(self._input)

    def _forward(self) -> Tensor:
        self._graph.replay()
        return self._recorded
