"""MegEngine's checkpoints: a pickle of numpy arrays, read and written without running anything."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

_NUMBERS = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")


class _Dtype:
    """Stands in for numpy.dtype: the name of a plain number type."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name!r}")
        self.name = name
        self.order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for numpy.ndarray: what the file says of one, to be checked by ``_as_tensor``."""

    def __init__(self, shape: Any, dtype: Any, data: Any) -> None:
        self.shape, self.dtype, self.data, self.fortran = shape, dtype, data, False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state


class _Reconstruct(_Array):
    """Stands in for numpy's ``_reconstruct(ndarray, (0,), b"b")``, whose state follows."""


#: All that an array of numbers in a pickle refers to, as numpy 1 and 2 name it. A file can set the
#: state of what it makes, and with that of a real dtype or array corrupt memory, so nothing of
#: numpy's is here.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Finds those stand-ins and nothing else (pickle docs, "Restricting Globals")."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(repr(f"{module}.{name}"))
        return _ALLOWED[module, name]


def read_numpy_pickle(path: Path) -> Any:
    """The content of a pickle of numpy arrays, arrays as tensors.

    Raises:
        UserError: the pickle refers to anything but arrays, or is damaged.
    """
    try:
        with path.open("rb") as stream:
            return _as_tensors(_ArrayUnpickler(stream).load())
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: is a pickle of more than numpy arrays ({error}), and loading it could run "
            "code from the file; save a state dict with torch.save or safetensors, and give that."
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: holds itself; give a plain dict of arrays.") from error
    except Exception as error:  # a damaged pickle makes numpy stumble in many ways
        raise UserError(
            f"{path}: is truncated or damaged; copy or download the checkpoint again."
        ) from error


def _as_tensors(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _as_tensors(value) for key, value in content.items()}
    return _as_tensor(content) if isinstance(content, _Array) else content


def _as_tensor(array: _Array) -> Tensor:
    """The array in memory of its own; ValueError where its bytes are not what its shape takes."""
    name = array.dtype if isinstance(array.dtype, _Dtype) else _Dtype(array.dtype)
    dtype = np.dtype(name.name).newbyteorder(name.order)
    if prod(array.shape) * dtype.itemsize != len(array.data):
        raise ValueError("the bytes of an array do not fill its shape")
    order: Literal["C", "F"] = "F" if array.fortran else "C"
    values = np.ndarray(array.shape, dtype, bytearray(array.data), order=order)
    native = values.astype(dtype.newbyteorder("="), order="C", copy=False)
    return torch.from_numpy(native)


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
