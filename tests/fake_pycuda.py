"""A stand-in for ``pycuda.driver`` that has no GPU: device memory is host memory.

As strict as pycuda where our code could go wrong: work without a current context, memory freed or
outgrown, and streams and events of nobody are errors.
"""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np


class Error(Exception):
    """Of CUDA; pycuda's other errors derive from it."""


class OutOfMemory(Error):
    pass


class FakePycuda:
    """``limit`` is the size of the device memory in bytes."""

    Error, MemoryError = Error, OutOfMemory

    def __init__(self, limit: int = 1 << 40) -> None:
        self.limit, self.used = limit, 0
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned: list[Any] = []
        self.copies: list[str] = []
        self.retained = 0
        self._stacks = threading.local()
        self._lock = threading.Lock()
        fake = self

        class Context:
            def push(self) -> None:
                fake.stack.append(self)

            def detach(self) -> None:
                fake.retained -= 1

            @staticmethod
            def pop() -> None:
                fake.stack.pop()

        class Allocation:
            def __init__(self, size: int) -> None:
                fake.need_context()
                with fake._lock:
                    if fake.used + size > fake.limit:
                        raise OutOfMemory("cuMemAlloc failed: out of memory")
                    fake.used += size
                    room = np.full(size + 256, 0xEE, np.uint8)
                    start = -room.ctypes.data % 256  # CUDA aligns what it allocates
                    self.memory = room[start : start + size]
                    fake.blocks[int(self)] = self.memory

            def __int__(self) -> int:
                return int(self.memory.ctypes.data)

            def free(self) -> None:
                fake.need_context()
                with fake._lock:
                    fake.used -= fake.blocks.pop(int(self)).size

        class Pinned:
            """The ``base`` of a page-locked array."""

            def __init__(self, memory: np.ndarray) -> None:
                self._memory, self.__array_interface__ = memory, memory.__array_interface__

            def free(self) -> None:
                fake.need_context()
                fake.pinned.remove(self)

        class Stream:
            def __init__(self, flags: int) -> None:
                assert flags == 1  # another one waits for the default stream of torch
                fake.need_context()
                self.handle = id(self)

            def synchronize(self) -> None:
                fake.need_context()

        class Event:
            def __init__(self) -> None:
                fake.need_context()

            def record(self, stream: Stream) -> None:
                assert isinstance(stream, Stream)
                self.at = time.perf_counter()

            def synchronize(self) -> None:
                fake.need_context()

            def time_since(self, event: Event) -> float:
                return (self.at - event.at) * 1e3

        self.Context, self.Stream, self.Event = Context, Stream, Event
        self.mem_alloc, self._pinned_type = Allocation, Pinned

    @property
    def stack(self) -> list[Any]:
        """Contexts that are current in this thread."""
        if not hasattr(self._stacks, "contexts"):
            self._stacks.contexts = []
        stack: list[Any] = self._stacks.contexts
        return stack

    def need_context(self) -> None:
        if not self.stack:
            raise Error("invalid device context")

    def init(self) -> None:
        pass

    def Device(self, number: int) -> SimpleNamespace:
        assert number == 0

        def retain() -> Any:
            self.retained += 1
            return self.Context()

        return SimpleNamespace(retain_primary_context=retain)

    def mem_get_info(self) -> tuple[int, int]:
        self.need_context()
        return self.limit - self.used, self.limit

    def pagelocked_empty(self, shape: int, dtype: Any) -> np.ndarray:
        self.need_context()
        block = self._pinned_type(np.full(shape, 0xEE, dtype))
        self.pinned.append(block)
        array = np.asarray(block)
        assert array.base is block
        return array

    def device(self, address: int, size: int) -> np.ndarray:
        """That piece of device memory."""
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + block.size:
                return block[address - start : address - start + size]
        raise Error("an illegal memory access was encountered")

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any) -> None:
        self.need_context()
        self.device(dest, src.nbytes)[:] = src
        self.copies.append("up")

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any) -> None:
        self.need_context()
        dest[:] = self.device(src, dest.nbytes)
        self.copies.append("down")

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: Any) -> None:
        self.need_context()
        self.device(dest, size)[:] = self.device(src, size)
        self.copies.append("across")
