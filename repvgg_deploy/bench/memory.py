"""Peak memory of building and running one subject."""

from __future__ import annotations

from types import TracebackType
from typing import Literal

from .record import Memory

#: Whose bytes on the device are told: torch's allocator's, the whole device's (NVML), or none.
Device = Literal["none", "torch", "whole"]


class PeakMemory:
    """Growth of memory over what there was at ``with``; ``memory`` is ready after it.

    Build, load and step the subject inside, and let it live until the end. Host memory is the whole
    process's, so nothing else may run in it.
    """

    memory: Memory

    def __init__(self, device: Device = "none") -> None:
        self._device = device

    def __enter__(self) -> PeakMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        raise NotImplementedError
