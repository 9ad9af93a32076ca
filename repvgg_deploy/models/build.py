"""Spec + state dict -> torch module, strictly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError
from .network import RepVGG
from .spec import ArchSpec, Form


def skeleton(spec: ArchSpec, form: Form) -> RepVGG:
    """The network without storage (torch's meta device), in eval mode."""
    with torch.device("meta"):
        return RepVGG(spec, form).eval()


def check_layout(state: Mapping[str, Tensor], spec: ArchSpec, form: Form) -> None:
    """Refuse a state dict with a tensor too few or of another shape.

    ``num_batches_tracked`` may be absent: inference does not use it.
    """
    expected = skeleton(spec, form).state_dict()
    for key, value in expected.items():
        shape = tuple(value.shape)
        if key not in state and not key.endswith("num_batches_tracked"):
            raise UserError(
                f"{key} is missing, which every other part of this network asks for; the file is "
                "damaged or of another architecture."
            )
        if key in state and tuple(state[key].shape) != shape:
            raise UserError(
                f"{key} has shape {tuple(state[key].shape)}, but the rest of the network asks for "
                f"{shape}; the file is damaged or mixes two networks."
            )
        if key in state and value.is_floating_point() > state[key].is_floating_point():
            raise UserError(f"{key} is of type {state[key].dtype}; save the weights as floats.")


def foreign_keys(state: Mapping[str, Tensor], spec: ArchSpec, form: Form) -> list[str]:
    """Keys that belong to no part of the network."""
    return sorted(set(state) - set(skeleton(spec, form).state_dict()))


def build(
    state: Mapping[str, Tensor], spec: ArchSpec, form: Form, dtype: torch.dtype = torch.float32
) -> RepVGG:
    """The network with these weights in ``dtype``, in eval mode.

    Tensors that have the dtype already are shared, not copied.
    """
    network = skeleton(spec, form)
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            weights.setdefault(key, torch.zeros_like(value, device="cpu"))
    network.load_state_dict(weights, strict=True, assign=True)
    return network.requires_grad_(False)
