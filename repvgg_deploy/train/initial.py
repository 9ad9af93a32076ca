"""The network that training starts from: new, or with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UserError
from ..models.build import check_layout
from ..models.network import RepVGG
from ..models.spec import AUX_STAGES, ArchSpec, Form
from ..models.zoo import describe

_HEAD = "linear."


@dataclass(frozen=True)
class Taken:
    """Tensors that came from the checkpoint, and new ones with why; official names."""

    taken: list[str]
    fresh: dict[str, str]


def new_network(spec: ArchSpec, seed: int) -> RepVGG:
    """The training form with torch's own initial values, in float32 on the CPU, in training mode.

    The same for the same seed; torch's generator stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RepVGG(spec, "train").train()


def fine_tuned_spec(spec: ArchSpec, num_classes: int, keep_head: bool) -> ArchSpec:
    """The network that fine-tuning a checkpoint of ``spec`` trains: for the data's classes, and
    with the auxiliary heads of its family even where the checkpoint has lost them.

    Raises:
        UserError: the head is to be kept, and is for another number of classes.
    """
    if keep_head and spec.num_classes != num_classes:
        raise UserError(
            f"its head has {spec.num_classes} classes and the data {num_classes}; leave out "
            "--keep-head for a new one."
        )
    aux = AUX_STAGES if spec.family == "repvggplus" else ()
    return replace(spec, num_classes=num_classes, aux_stages=aux)


def take_weights(
    network: RepVGG, spec: ArchSpec, form: Form, state: Mapping[str, Tensor], keep_head: bool
) -> Taken:
    """Copy a checkpoint's tensors into ``network``, and say which those were.

    ``spec``, ``form`` and ``state`` (official names) are those of the checkpoint's network. All of
    it is taken, heads only with ``keep_head``; heads and counters that it lacks stay as they are.

    Raises:
        UserError: it is fused, of another architecture, or damaged; does not name the file.
    """
    if form == "deploy":
        raise UserError(
            "is fused already, and fine-tuning needs the training form with its branches; give the "
            "checkpoint as training saved it (train --qat takes fused ones)."
        )
    expected = fine_tuned_spec(spec, network.spec.num_classes, keep_head)
    if difference := _difference(expected, network.spec):
        raise UserError(f"holds {difference}; train what it holds, or leave out --init.")
    check_layout(state, spec, form)
    taken, fresh = {}, {}
    for key, own in network.state_dict().items():
        if _is_head(key) and not keep_head:
            fresh[key] = "a new head; --keep-head keeps the checkpoint's"
        elif key in state:
            taken[key] = state[key].to(own.dtype)
        else:
            fresh[key] = "not in the checkpoint"
    if left := [key for key in state if key not in taken and key not in fresh]:
        raise UserError(f"{left[0]!r} belongs to no part of {describe(network.spec)}.")
    network.load_state_dict({**network.state_dict(), **taken}, strict=True)
    return Taken(list(taken), fresh)


def _is_head(key: str) -> bool:
    """The classifier, or a part of an auxiliary head."""
    return key.startswith(_HEAD) or "_aux." in key


def _difference(given: ArchSpec, asked: ArchSpec) -> str:
    """What of the checkpoint's network is not as asked, in words; empty where all is."""
    if given.in_channels != asked.in_channels:
        return f"a network of {given.in_channels} input channels, not {asked.in_channels}"
    if given.block != asked.block:
        return f"{given.block} blocks, not {asked.block} ones"
    if (given.family, given.blocks) != (asked.family, asked.blocks):
        return f"{describe(given)}, not {describe(asked)}"
    if given.eps != asked.eps:
        return f"batch norms of eps {given.eps:g}, not {asked.eps:g}"
    return ""
