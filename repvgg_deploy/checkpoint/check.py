"""What is demanded of a checkpoint's tensors: little of all, more of those that fuse works on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..archives import size_text
from ..errors import UserError

#: Tensors that share memory may take this many times as much apart, and this many bytes anyway.
_MOST_SHARED, _HARMLESS = 16, 64_000_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_storage(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that could not be passed on to a safetensors file bit for bit.

    Names too: what is not printable could make a terminal show what is not so.

    Raises:
        UserError: names the first; or they are views of far less memory than they would take.
    """
    for key, tensor in state.items():
        if not key.isprintable():
            raise UserError(
                f"{path}: the name {key!r} holds control characters, which no code base's names "
                "do; the file is damaged, so use another copy."
            )
        if not _is_storable(tensor):
            raise _unusual(key, tensor, path)
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{path}: {key!r} has shape {tuple(tensor.shape)}, but the file holds only "
                f"{tensor.untyped_storage().nbytes()} bytes for it (an expanded tensor); save "
                "its clone() instead."
            )
        if tensor.numel() == 0 and tensor.ndim > 1 and key.endswith("weight"):
            raise _empty(key, tensor, path)  # a kernel, with no shape to find a block by
    _check_shared(state, path)


def _check_shared(state: Mapping[str, Tensor], path: Path) -> None:
    """Tied weights are two names of one memory; a thousand would fill the disk when written."""
    storages = (tensor.untyped_storage() for tensor in state.values())
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    whole = sum(tensor.nbytes for tensor in state.values())
    if whole > max(_HARMLESS, _MOST_SHARED * held):
        raise UserError(
            f"{path}: its tensors share {size_text(held)} of memory and would take "
            f"{size_text(whole)} apart, which no network's do; save their clones instead."
        )


def check_values(state: Mapping[str, Tensor], keys: Iterable[str], path: Path) -> None:
    """Refuse tensors that no training leaves in a network, among those under ``keys``.

    Raises:
        UserError: names the first that is empty, of a type that is no weight's, or holds NaN,
            infinity or a negative variance.
    """
    for key in keys:
        tensor = state[key]
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _FLOATS):
            raise _unusual(key, tensor, path)
        if tensor.numel() == 0:
            raise _empty(key, tensor, path)
        if tensor.is_floating_point() and not is_finite(tensor):
            raise UserError(
                f"{path}: {key!r} holds NaN or infinity; the training diverged or the file is "
                "damaged, so use an earlier checkpoint."
            )
        if key.endswith("running_var") and bool((tensor < 0).any()):
            raise UserError(
                f"{path}: {key!r} holds a negative variance, which no training produces; the file "
                "is damaged, so copy or download it again."
            )


def is_finite(tensor: Tensor) -> bool:
    """NaN and infinity both show in the extremes, which one pass finds without a mask."""
    return all(bool(torch.isfinite(end)) for end in tensor.aminmax())


def _is_storable(tensor: Tensor) -> bool:
    """Dense, with its values in memory as they are."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_nested:
        return False
    return not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())


def _unusual(key: str, tensor: Tensor, path: Path) -> UserError:
    return UserError(
        f"{path}: {key!r} is a sparse, quantized, complex, 8-bit or otherwise unusual "
        f"tensor ({tensor.dtype}, {tensor.layout}); save plain float tensors."
    )


def _empty(key: str, tensor: Tensor, path: Path) -> UserError:
    return UserError(
        f"{path}: {key!r} is empty, of shape {tuple(tensor.shape)}; the file is damaged, "
        "so use another copy or an earlier checkpoint."
    )
