"""MegEngine's checkpoints: a pickle of numpy arrays, read and written without running anything."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

#: All that an array of numbers in a pickle refers to, as numpy 1 and 2 name it. Nothing here runs
#: code from the file; arrays of objects are refused when they are turned into tensors.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
# where a pickle says they are; __reduce__ is the public way to numpy's own reconstructors
_ALLOWED.update(
    ((package + ".multiarray", "_reconstruct"), np.zeros(1).__reduce__()[0])
    for package in ("numpy.core", "numpy._core")
)


class _ArrayUnpickler(pickle.Unpickler):
    """Finds numpy's array constructors and nothing else (pickle docs, "Restricting Globals")."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
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
    if isinstance(content, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(content).reshape(content.shape))
    return content


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
