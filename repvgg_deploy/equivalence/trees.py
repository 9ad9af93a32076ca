"""Tensors in the tuples, lists, dicts and dataclasses that models take and return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mapped(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors of a tree in another dtype; what else there is stays."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: mapped(part, dtype) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mapped(part, dtype) for part in value)
    return value


def tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree that hold something, by name; complex ones as pairs of numbers."""
    if isinstance(value, Tensor):
        if value.numel():
            yield name, torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from tensors(f"{name}[{key!r}]", part)
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from tensors(f"{name}[{number}]", part)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from tensors(f"{name}.{entry.name}", getattr(value, entry.name))


def array(tensor: Tensor) -> NDArray[np.float64]:
    """At least [N, C]."""
    array = np.asarray(tensor.detach().double().cpu().numpy())
    return (
        array.reshape(len(array), -1) if array.ndim == 1 else array.reshape(array.shape or (1, 1))
    )
