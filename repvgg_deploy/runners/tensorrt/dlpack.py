"""Arrays of other libraries by DLPack: those on the GPU are used where they lie.

Layout of the struct: DLPack's dlpack.h, version 0.x, which every library still hands out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...optional import require

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

#: DLDeviceType: CPU, CUDA's page-locked host memory and CUDA's managed memory, which numpy reads.
_CPU_LIKE = {1, 3, 13}
_CUDA = 2
_INT, _UINT, _FLOAT, _BFLOAT, _BOOL = 0, 1, 2, 4, 6  # DLDataTypeCode


class _Tensor(ctypes.Structure):
    """DLTensor"""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class DeviceArray:
    """Contiguous numbers on the GPU. ``owner`` keeps the memory alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = field(repr=False)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class HasDLPack(Protocol):
    """What the Python array API standard asks of an array that others can read."""

    def __dlpack__(self, *, stream: int | None = ...) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


def from_dlpack(array: HasDLPack, stream: int) -> NDArray[Any] | DeviceArray:
    """An object with ``__dlpack__``; nothing is copied.

    ``stream`` is the handle of the CUDA stream that will read it: the library lets that wait for
    what it has still to do on the GPU.

    Raises:
        UserError: it lies on another device, is not contiguous, or has a type that numpy lacks.
    """
    device, number = (int(value) for value in array.__dlpack_device__())
    try:
        if device in _CPU_LIKE:
            return np.from_dlpack(array)
        if device == _CUDA and number == 0:
            return _on_the_gpu(array.__dlpack__(stream=stream))
    except (RuntimeError, BufferError, TypeError, ValueError) as error:
        raise UserError(f"an input cannot be read through DLPack: {error}.") from error
    raise UserError(
        f"an input lies on the device (type {device}, number {number}) by DLPack; engines run "
        "on the first GPU, so copy it there, or to the CPU."
    )


def _on_the_gpu(capsule: object) -> DeviceArray:
    """What the capsule holds. It keeps its name, so that its own destructor frees it."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(get(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides and not _is_contiguous(shape, tensor.strides[: tensor.ndim]):
        raise UserError("an input on the GPU is not contiguous; make it so, as by .contiguous().")
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, _dtype(tensor), capsule)


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the strides, in elements, are those of a C-contiguous array.

    A dimension of one element may have any: torch gives it 1, whatever follows.
    """
    step = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side > 1 and stride != step:
            return False
        step *= side
    return True


def _dtype(tensor: _Tensor) -> np.dtype[Any]:
    kinds = {_INT: "int", _UINT: "uint", _FLOAT: "float"}
    if tensor.lanes == 1 and tensor.code == _BFLOAT and tensor.bits == 16:
        bfloat16: np.dtype[Any] = np.dtype(require("ml_dtypes").bfloat16)
        return bfloat16
    if tensor.lanes == 1 and tensor.code == _BOOL and tensor.bits == 8:
        return np.dtype(bool)
    try:
        if tensor.lanes != 1:
            raise TypeError
        return np.dtype(f"{kinds[tensor.code]}{tensor.bits}")
    except (KeyError, TypeError):
        raise UserError(
            f"an input has a type that numpy lacks (DLPack code {tensor.code}, {tensor.bits} bits)."
        ) from None
