"""Memory for one tensor: on the GPU, and page-locked on the host, which copies need to be fast."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .device import GpuDevice
from .pycuda_api import DeviceAllocation, PagelockedHostAllocation, Stream


class GpuBuffer:
    """Grows to the largest tensor it has held. ``name`` stands in the sentences of errors.

    Call its methods within ``device.current()``.
    """

    def __init__(self, device: GpuDevice, name: str) -> None:
        self._device, self._name = device, name
        self._size = self._used = 0
        self._memory: DeviceAllocation | None = None
        self._host: NDArray[np.uint8] | None = None

    @property
    def address(self) -> int:
        assert self._memory is not None  # reserve() comes first
        return int(self._memory)

    def reserve(self, size: int) -> None:
        """Room for ``size`` bytes; nothing that was copied here before is kept.

        Raises:
            UserError: the GPU, or the host, has too little memory.
        """
        self._used = size
        if self._memory is not None and size <= self._size:
            return
        self.free()
        driver = self._device.driver
        try:
            self._memory = driver.mem_alloc(max(size, 1))  # CUDA refuses to allocate nothing
            self._host = driver.pagelocked_empty(max(size, 1), np.uint8)
        except driver.MemoryError as error:
            where = "GPU" if self._memory is None else "host"
            free = f", of which {driver.mem_get_info()[0] / 1e6:.0f} MB are free"
            self.free()
            raise UserError(
                f"{self._name}: {size / 1e6:.1f} MB of {where} memory were asked for"
                f"{free if where == 'GPU' else ''}; use a smaller batch, or free some memory."
            ) from error
        self._size = size

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The host side as an array; the next ``reserve`` or ``free`` takes it away."""
        assert self._host is not None
        return self._host[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def upload(self, stream: Stream) -> None:
        """Host to device, in the order of ``stream``."""
        assert self._host is not None
        self._device.driver.memcpy_htod_async(self.address, self._host[: self._used], stream)

    def download(self, stream: Stream) -> None:
        """Device to host, in the order of ``stream``."""
        assert self._host is not None
        self._device.driver.memcpy_dtoh_async(self._host[: self._used], self.address, stream)

    def free(self) -> None:
        """Give the memory back. Safe to call twice."""
        memory, host = self._memory, self._host
        self._memory = self._host = None
        self._size = 0
        if memory is not None:
            memory.free()
        if host is not None:
            allocation: PagelockedHostAllocation = host.base  # type: ignore[assignment]
            allocation.free()
