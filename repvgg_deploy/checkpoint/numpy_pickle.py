"""MegEngine's checkpoints: a pickle of numpy arrays, read and written without running anything."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .declared import Damaged, Declared, Refused
from .pickles import PLAIN, Table, Unpickler, look_up

_NUMBERS = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")


class _Dtype:
    """Stands in for numpy.dtype: the name of a plain number type."""

    __slots__ = ("name", "order")

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise Refused(f"an array of {name!r}")
        self.name = name
        self.order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def real(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.name).newbyteorder(self.order)
        return dtype


class _Array(Declared):
    """Stands in for numpy.ndarray: what the file says of one, checked when it is read."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, shape: Any, dtype: Any, data: Any, fortran: Any = False) -> None:
        self.shape, self.dtype, self.data, self.fortran = shape, dtype, data, fortran

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def read(self) -> Tensor:
        """The array in memory of its own."""
        dtype = (self.dtype if isinstance(self.dtype, _Dtype) else _Dtype(self.dtype)).real()
        if prod(self.shape) * dtype.itemsize != len(self.data):
            raise Damaged("the bytes of an array do not fill its shape")
        order: Literal["C", "F"] = "F" if self.fortran else "C"
        values = np.ndarray(self.shape, dtype, bytearray(self.data), order=order)
        native = values.astype(dtype.newbyteorder("="), order="C", copy=False)
        return torch.from_numpy(native)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    """What numpy's arrays are in protocol 5."""
    return _Array(shape, dtype, data, fortran=order == "F")


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """A number of numpy's, as one of Python's."""
    return np.frombuffer(data, dtype.real())[0].item()


#: All that numbers in a pickle refer to, as numpy 1 and 2 name it.
NUMPY: Table = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): make
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
_TABLE: Table = {**PLAIN, **NUMPY}


@contextmanager
def open_numpy_pickle(path: Path) -> Iterator[Any]:
    """The content of a pickle of numpy arrays, arrays declared.

    Raises:
        Refused: the pickle refers to anything but arrays and numbers.
        Exception: it is damaged, and stumbled in one of many ways.
    """
    with path.open("rb") as stream:
        yield Unpickler(stream, lambda module, name: look_up(_TABLE, module, name)).load()


class _ArrayPickler(pickle.Pickler):
    """Writes arrays by what numpy 1 and 2 name alike; numpy's own pickles do not cross over."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype.str, obj.tobytes())
        return NotImplemented


def numpy_pickle(state: Mapping[str, Tensor]) -> bytes:
    """A state dict as MegEngine loads it."""
    stream = io.BytesIO()
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    _ArrayPickler(stream, protocol=4).dump(arrays)
    return stream.getvalue()
