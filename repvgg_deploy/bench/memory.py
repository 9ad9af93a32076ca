"""Peak memory of building and running one subject.

Memory is told of the whole process, so only its growth is a subject's. On the host that is the
resident set's: the kernel's own high-water mark, which misses nothing as sampling would (Linux;
proc(5), clear_refs). On a GPU it is torch's allocator's peak, or for other runtimes what the whole
device has more in use at the end than at the beginning: their arenas keep what they took.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch

from .cores import read
from .nvml import nvml_gpu
from .record import Memory

#: Whose bytes on the device are told: torch's allocator's, the whole device's (NVML), or none.
Device = Literal["none", "torch", "whole"]

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Growth of memory over what there was at ``with``; ``memory`` is ready after it.

    Build, load and step the subject inside, and let it live until the end. Memory that earlier
    work left in the pools of torch or of another library is reused unseen; what glibc holds is
    given back to the system first.
    """

    memory: Memory

    def __init__(self, device: Device = "none") -> None:
        self._device = device

    def __enter__(self) -> PeakMemory:
        gc.collect()
        _give_back()
        self._marked = _reset_mark()
        self._host = _resident("VmRSS")
        if self._device == "torch":
            # Until then the allocator keeps no accounts that could be reset.
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats()
        self._on_device = _device_bytes(self._device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        peak = _resident("VmHWM") if self._marked else None
        on_device = (
            torch.cuda.max_memory_allocated()
            if self._device == "torch"
            else _device_bytes(self._device)
        )
        self.memory = Memory(
            host=_growth(self._host, peak), device=_growth(self._on_device, on_device)
        )


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _give_back() -> None:
    """glibc keeps freed memory for later; here it returns what it can to the system."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def _reset_mark() -> bool:
    """Lower the high-water mark to what is resident now; False where the kernel has no such."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    """A line of /proc/self/status, like ``VmRSS: 1234 kB``, in bytes."""
    for line in (read(_STATUS) or "").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _device_bytes(device: Device) -> int | None:
    if device == "torch":
        return torch.cuda.memory_allocated()
    if device == "whole":
        with nvml_gpu() as gpu:
            return None if gpu is None else gpu.used_memory()
    return None
