"""Finding re-parameterizable blocks in a state dict, from keys and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError
from .families import BlockFamily

State = Mapping[str, Tensor]
BN_LEAVES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class TrainBlock:
    """One block in training form: where its branches are, and its geometry.

    ``in_per_group`` is the kernel's input width, in_channels / groups. A block with an identity
    has as many inputs as outputs, so there a group has ``in_per_group`` outputs as well.
    """

    path: str
    family: BlockFamily
    out_channels: int
    in_per_group: int
    has_identity: bool

    @property
    def kernel_key(self) -> str:
        """Key of the k x k kernel, whose shape the fused kernel has."""
        return f"{self.path}.{self.family.conv_bn[0][0]}.weight"

    def keys(self, state: State) -> list[str]:
        """Every key of ``state`` that folding this block takes away."""
        names = [name for pair in self.family.conv_bn for name in pair] + [self.family.identity]
        prefixes = tuple(f"{self.path}.{name}." for name in names)
        return [key for key in state if key.startswith(prefixes)]


def find_train_blocks(state: State, family: BlockFamily) -> list[TrainBlock]:
    """All blocks of ``family`` in training form, in the order of the file.

    Raises:
        UserError: a branch is missing or incomplete, or shapes do not fit.
    """
    endings = [f".{name}.weight" for pair in family.conv_bn for name in pair]
    endings.append(f".{family.identity}.weight")
    paths = dict.fromkeys(
        key.removesuffix(ending) for key in state for ending in endings if key.endswith(ending)
    )
    return [_read_block(state, path, family) for path in paths]


def _read_block(state: State, path: str, family: BlockFamily) -> TrainBlock:
    for conv, bn in family.conv_bn:
        _require(state, path, conv, ("weight",), ndim=4)
        _require(state, path, bn, BN_LEAVES, ndim=1)
    weights = [state[f"{path}.{conv}.weight"] for conv, _ in family.conv_bn]
    out, in_per_group = weights[0].shape[:2]
    has_identity = f"{path}.{family.identity}.weight" in state
    if has_identity:
        _require(state, path, family.identity, BN_LEAVES, ndim=1)
    norms = [bn for _, bn in family.conv_bn] + [family.identity] * has_identity
    lengths = {len(state[f"{path}.{bn}.{leaf}"]) for bn in norms for leaf in BN_LEAVES}
    shapes = {tuple(weight.shape[:2]) for weight in weights}
    if lengths != {out} or len(shapes) > 1:
        raise UserError(
            f"block {path}: the shapes of its branches do not fit together "
            f"(kernels {sorted(shapes)}, batch norms {sorted(lengths)}); is the file damaged?"
        )
    if has_identity and out % in_per_group:
        raise UserError(
            f"block {path}: {out} channels do not divide into groups of {in_per_group}."
        )
    return TrainBlock(path, family, out, in_per_group, has_identity)


def _require(state: State, path: str, name: str, leaves: tuple[str, ...], ndim: int) -> None:
    for leaf in leaves:
        tensor = state.get(f"{path}.{name}.{leaf}")
        if tensor is None:
            raise UserError(
                f"block {path}: {name}.{leaf} is missing; fuse needs every branch of a block, "
                "so use the checkpoint as training saved it."
            )
        if tensor.ndim != ndim:
            shape = tuple(tensor.shape)
            raise UserError(
                f"block {path}: {name}.{leaf} has shape {shape}, not {ndim} dimensions."
            )
