"""An array that says by DLPack that it lies on the GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from repvgg_deploy.runners.tensorrt.dlpack import _Tensor

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """DLManagedTensor"""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class OnTheGpu:
    """``address`` is that of device memory which holds ``like``; ``strides`` are in elements."""

    def __init__(
        self,
        address: int,
        like: np.ndarray,
        strides: tuple[int, ...] | None = None,
        device: tuple[int, int] = (2, 0),
        **changes: int,
    ) -> None:
        self.device, self.streams = device, []
        self._shape = (ctypes.c_int64 * like.ndim)(*like.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * like.ndim)(*strides)
        code, bits = _CODES.get(like.dtype.kind, 4), like.dtype.itemsize * 8
        self._managed = _Managed(
            _Tensor(
                data=address, device_type=device[0], device_id=device[1], ndim=like.ndim,
                code=changes.get("code", code), bits=changes.get("bits", bits),
                lanes=changes.get("lanes", 1), shape=self._shape, strides=self._strides,
                byte_offset=changes.get("byte_offset", 0),
            )
        )  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
        )
        return new(ctypes.addressof(self._managed), b"dltensor", None)
