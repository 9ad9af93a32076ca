"""A CUDA stream, and how long the parts of an inference in it take on the GPU's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from .device import GpuDevice
from .pycuda_api import Event, Stream

#: CU_STREAM_NON_BLOCKING, of the CUDA driver API. Any other stream waits for CUDA's legacy default
#: stream, which torch works in; and while it is recorded as a graph, all use of that one fails, in
#: every thread (CUDA programming guide, "Prohibited and Unhandled Operations").
_NON_BLOCKING = 1

Part = Literal["host_to_device", "compute", "device_to_host"]


@dataclass(frozen=True)
class Times:
    """Seconds by CUDA events, without what Python does in between."""

    host_to_device: float
    compute: float
    device_to_host: float


class GpuStream:
    """Use it within ``device.current()``. ``raw`` is pycuda's stream, ``handle`` CUDA's number."""

    def __init__(self, device: GpuDevice) -> None:
        event = device.driver.Event
        self._streams = [device.driver.Stream(_NON_BLOCKING)]
        self._events: dict[Part, tuple[Event, Event]] = {
            "host_to_device": (event(), event()),
            "compute": (event(), event()),
            "device_to_host": (event(), event()),
        }

    @property
    def raw(self) -> Stream:
        return self._streams[0]

    @property
    def handle(self) -> int:
        return self.raw.handle

    def wait(self) -> None:
        """Until all that was put on the stream is done."""
        self.raw.synchronize()

    @contextmanager
    def timed(self, part: Part) -> Iterator[None]:
        """Around what is put on the stream; an exception leaves the part unfinished."""
        begin, end = self._events[part]
        begin.record(self.raw)
        yield
        end.record(self.raw)

    def times(self) -> Times:
        """Of the last inference, once all of it is done."""
        seconds = {p: end.time_since(begin) / 1e3 for p, (begin, end) in self._events.items()}
        return Times(**seconds)

    def close(self) -> None:
        """Let pycuda destroy them here: it cannot where another thread collects them."""
        self._streams.clear()
        self._events.clear()
