"""This machine's GPU, asked of the CUDA driver itself, so that no torch has to be installed.

The driver numbers devices as TensorRT and pycuda see them (CUDA_VISIBLE_DEVICES, fastest first),
which NVML does not. Names and numbers: CUDA driver API, CUdevice_attribute.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True)
class Gpu:
    """``capability`` is like ``sm89``; ``memory`` in bytes; ``cuda`` the newest that the driver
    supports, like ``13.0``."""

    name: str
    capability: str
    memory: int
    cuda: str


def driver() -> ctypes.CDLL | None:
    """The CUDA driver's own library, None where none is installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def absence() -> str:
    """Why ``this_gpu`` found none: no driver, or a driver that sees no device."""
    cuda = driver()
    if cuda is None:
        return "no CUDA driver is installed here"
    return f"the CUDA driver here sees no GPU (cuInit says error {cuda.cuInit(0)})"


def this_gpu() -> Gpu | None:
    """The first device that CUDA sees; None where there is no driver or no device."""
    cuda = driver()
    if cuda is None:
        return None
    device, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"sm{numbers[0]}{numbers[1]}",
        memory=memory.value,
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def pci_bus_id() -> str | None:
    """Where ``this_gpu`` sits, like ``0000:65:00.0``: so NVML finds it, which counts otherwise."""
    cuda = driver()
    device, place = ctypes.c_int(), ctypes.create_string_buffer(32)
    if cuda is None or cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if cuda.cuDeviceGetPCIBusId(place, len(place), device):
        return None
    return place.value.decode()


def this_platform() -> str:
    """System and processor, like ``linux-x86_64``: an engine does not load on another."""
    return f"{sys.platform}-{platform.machine().lower()}"
