"""State dict -> file, in the formats that checkpoints come in."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from .numpy_pickle import numpy_pickle


def save_state(path: Path, state: Mapping[str, Tensor], suffix: str) -> None:
    """Write a state dict to ``path`` in the format that ``suffix`` names.

    Raises:
        OSError: the file cannot be written.
        UserError: safetensors has no place for a tensor's type.
    """
    if suffix == ".safetensors":
        _save_safetensors(path, dict(state))
    elif suffix == ".pkl":
        path.write_bytes(numpy_pickle(state))
    else:
        _save_torch(path, dict(state))


def _save_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(_unshared(state), path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only this user reads, whatever the umask
    except SafetensorError as error:  # the Rust side puts the errno into the text
        code = re.search(r"(?:os error|code:) (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), str(error)) from error
    except KeyError as error:  # its table of types lacks this one
        dtype = error.args[0]
        key = next(key for key, tensor in state.items() if tensor.dtype == dtype)
        raise UserError(
            f"{key!r} is of type {dtype}, which this version of safetensors cannot store; convert "
            "it in the checkpoint and fuse that."
        ) from error


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, those that share memory (tied weights) apart, as safetensors wants it."""
    seen: set[int] = set()
    result = {}
    for key, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr()
        result[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


def _save_torch(path: Path, state: dict[str, Tensor]) -> None:
    with path.open("wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:  # torch's own, raised while it handles the write's error
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
