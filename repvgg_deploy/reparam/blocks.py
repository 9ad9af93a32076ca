"""One block in training form: which of its family's branches it has, and its geometry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .family import NUMBER, BlockFamily, Branch

State = Mapping[str, Tensor]
BN_LEAVES = ("weight", "bias", "running_mean", "running_var")
#: Names that a layer's tensors may have.
LEAVES = (*BN_LEAVES, "num_batches_tracked")

Kind = Literal["conv", "linear", "norm", "scale"]
#: As in Branch.kinds.
_LETTERS: dict[Kind, str] = {"conv": "k", "linear": "k", "norm": "n", "scale": "s"}
_WORDS = {"k": "convolution", "n": "batch norm", "s": "scale"}


class Misfit(Exception):
    """No block of a family stands at a path, but something that looks like a part of one.

    ``damaged``: so much like one that in a file with others of its family, it must be one.
    """

    def __init__(self, path: str, reason: str, damaged: bool) -> None:
        super().__init__(reason)
        self.path, self.reason, self.damaged = path, reason, damaged


def below(path: str, name: str) -> str:
    """``name`` below ``path``; the root's path is empty."""
    return f"{path}.{name}" if path and name else path or name


@dataclass(frozen=True)
class Step:
    """One linear operation; ``name`` is the full key prefix of its tensors."""

    kind: Kind
    name: str

    @property
    def mixes(self) -> bool:
        """Whether it mixes channels, which a batch norm or a scale does not."""
        return self.kind in ("conv", "linear")

    def keys(self, state: State) -> list[str]:
        """Its keys in ``state``."""
        if self.kind == "scale":
            return [self.name]
        return [key for leaf in LEAVES if (key := f"{self.name}.{leaf}") in state]


@dataclass(frozen=True)
class TrainBranch:
    """A branch that a block has."""

    branch: Branch
    steps: tuple[Step, ...]

    @property
    def kernel_key(self) -> str | None:
        """Key of the kernel; None where the branch mixes no channels."""
        return next((f"{step.name}.weight" for step in self.steps if step.mixes), None)


@dataclass(frozen=True)
class TrainBlock:
    """One block in training form: where its branches are, and its geometry.

    ``in_per_group`` is the kernels' input width, in_channels / groups. A block with an identity
    has as many inputs as outputs, so there a group has ``in_per_group`` outputs as well.
    ``kernel_key`` names a kernel of the fused kernel's size, where there is one.
    """

    path: str
    family: BlockFamily
    branches: tuple[TrainBranch, ...]
    outer_norm: Step | None
    out_channels: int
    in_per_group: int
    kernel_size: tuple[int, int]
    kernel_key: str | None

    @property
    def fused_keys(self) -> tuple[str, str]:
        """Keys of the fused weight and bias."""
        fused = below(self.path, self.family.fused)
        return below(fused, "weight"), below(fused, "bias")

    @property
    def taken_to_widen(self) -> bool:
        """Whether its shapes might also be a grouped block's that has an identity without tensors.

        They are taken for those of a dense one with fewer channels in than out, which has none.
        """
        assumed = any(not branch.steps for branch in self.family.branches)
        lacks = all(branch.steps for branch in self.branches)
        strided = self.family.strided and re.search(self.family.strided, self.path)
        return assumed and lacks and not strided

    @property
    def taken_at_stride_1(self) -> bool:
        """Whether it has an identity without tensors only because nothing says that it strides.

        Families without ``strided`` have no such blocks.
        """
        return bool(self.family.strided) and any(not branch.steps for branch in self.branches)

    def with_identity(self, present: bool) -> TrainBlock:
        """This block where more is known than its shapes say: whether it has its family's branches
        without tensors."""
        branches = tuple(branch for branch in self.branches if branch.steps)
        if present:
            branches += tuple(TrainBranch(b, ()) for b in self.family.branches if not b.steps)
        return replace(self, branches=branches)

    @property
    def has_identity(self) -> bool:
        """Whether a branch passes the input on, channel by channel."""
        return any(branch.kernel_key is None for branch in self.branches)

    def eps(self, given: float | None = None) -> float:
        """Batch norm's eps: the given one, else the family's own."""
        return self.family.eps if given is None else given

    def steps(self) -> Iterator[Step]:
        """Every operation with tensors."""
        for branch in self.branches:
            yield from branch.steps
        if self.outer_norm is not None:
            yield self.outer_norm

    def keys(self, state: State) -> list[str]:
        """Every key of ``state`` that folding this block takes away."""
        return list(dict.fromkeys(key for step in self.steps() for key in step.keys(state)))


def read_block(
    state: State, path: str, family: BlockFamily, megengine: bool = False
) -> TrainBlock | None:
    """The block of ``family`` at ``path``; None where kernels are not as its own have to be.

    ``megengine``: kernels of five dimensions are grouped ones.

    Raises:
        Misfit: a branch that it must have is missing, in part or as a whole, or shapes do not fit.
    """
    branches: list[TrainBranch] = []
    for branch in family.branches:
        found = (
            list(_read_branch(state, path, branch)) if branch.steps else [TrainBranch(branch, ())]
        )
        if not found and not branch.optional:
            if any(other.kernel for other in family.branches):
                return None  # names that other blocks have as well
            name = branch.steps[0].replace(NUMBER, "0")
            raise Misfit(path, f"{name}.weight is missing.", damaged=False)
        kernels = [state[key] for found_one in found if (key := found_one.kernel_key)]
        if any(weight.ndim == 5 for weight in kernels) and not megengine:
            raise Misfit(path, "a 3-D convolution is no part of any block.", damaged=False)
        if any(not _is_as_said(weight, branch) for weight in kernels):
            return None
        for found_one in found:
            _check_kinds(path, found_one)
        branches += found
    outer = _read_step(state, path, family.outer_norm) if family.outer_norm else None
    if family.outer_norm and outer is None:
        raise Misfit(path, f"{family.outer_norm}.weight is missing.", damaged=False)
    if outer is not None and outer.kind != "norm":
        raise Misfit(path, f"{family.outer_norm} is no batch norm.", damaged=True)
    return _with_geometry(state, path, family, branches, outer)


def keeps_outer_norm(state: State, path: str, family: BlockFamily) -> bool:
    """Whether the batch norm after the sum stays when this block is fused."""
    between = below(path, f"{family.before_outer_norm}.") if family.before_outer_norm else None
    stands_between = between is not None and any(key.startswith(between) for key in state)
    return family.keeps_outer_norm or stands_between


def _check_kinds(path: str, found: TrainBranch) -> None:
    for step, kind in zip(found.steps, found.branch.kinds, strict=False):
        if kind != _LETTERS[step.kind]:
            raise Misfit(path, f"{step.name} is no {_WORDS[kind]}.", damaged=True)


def _is_as_said(weight: Tensor, branch: Branch) -> bool:
    """Whether a kernel has the size and the groups that its branch always has."""
    if branch.kernel and (weight.ndim < 4 or weight.shape[-1] != branch.kernel):
        return False
    return not branch.depthwise or (weight.ndim == 4 and weight.shape[1] == 1)


def _read_branch(state: State, path: str, branch: Branch) -> Iterator[TrainBranch]:
    """The branch as often as the block has it."""
    if not branch.steps:
        yield TrainBranch(branch, ())
        return
    for number in range(len(state)):
        names = [step.replace(NUMBER, str(number)) for step in branch.steps]
        steps = [_read_step(state, path, name) for name in names]
        if steps[0] is None and not any(step and step.kind != "scale" for step in steps):
            return  # a scale may be shared by several branches
        if missing := [name for name, step in zip(names, steps, strict=True) if step is None]:
            kernels = (state[f"{step.name}.weight"] for step in steps if step and step.mixes)
            if not all(_is_as_said(weight, branch) for weight in kernels):
                return  # names that other blocks have as well
            tensor = missing[0].removesuffix(".weight")
            raise Misfit(path, f"{tensor}.weight is missing.", damaged=True)
        yield TrainBranch(branch, tuple(step for step in steps if step is not None))
        if names == list(branch.steps):
            return


def _read_step(state: State, path: str, name: str) -> Step | None:
    """The operation under a name, told by its tensors; None where it has none."""
    full = below(path, name)
    if full in state:
        return Step("scale", full)
    weight = state.get(f"{full}.weight")
    leaves = [leaf for leaf in BN_LEAVES if f"{full}.{leaf}" in state]
    if weight is not None and not {"running_mean", "running_var"} & set(leaves):
        if weight.ndim == 2:
            return Step("linear", full)
        if weight.ndim not in (4, 5):
            reason = f"{name}.weight has shape {tuple(weight.shape)}, not 4 dimensions."
            raise Misfit(path, reason, damaged=weight.ndim != 3)  # 1-D convolutions have 3
        return Step("conv", full)
    if leaves and len(leaves) < len(BN_LEAVES):
        missing = next(leaf for leaf in BN_LEAVES if leaf not in leaves)
        raise Misfit(path, f"{name}.{missing} is missing.", damaged=True)
    return Step("norm", full) if leaves else None


def kernel(state: State, key: str) -> Tensor:
    """A kernel as [out, in/groups, kh, kw]; MegEngine's is [g, out/g, in/g, kh, kw]."""
    weight = state[key]
    return weight[:, :, None, None] if weight.ndim == 2 else weight.flatten(0, weight.ndim - 4)


def _with_geometry(
    state: State, path: str, family: BlockFamily, branches: list[TrainBranch], outer: Step | None
) -> TrainBlock:
    kernels = {key: kernel(state, key).shape for b in branches if (key := b.kernel_key)}
    widths = {(shape[0], shape[1]) for shape in kernels.values()}
    before, lengths = _lengths(state, branches, outer)
    out = next(iter(widths))[0] if widths else next(iter(lengths))
    in_per_group = next(iter(widths))[1] if widths else 1
    has_identity = any(branch.steps and branch.kernel_key is None for branch in branches)
    kinds = {step.kind for b in branches for step in b.steps if step.mixes}
    if (
        len(kinds) > 1
        or len(widths) > 1
        or lengths - {out}
        or (has_identity and out % in_per_group)
        or any(n % in_per_group or ("linear" in kinds and n != in_per_group) for n in before)
    ):
        raise Misfit(
            path,
            "the shapes of its branches do not fit together (kernels "
            f"{sorted(map(tuple, kernels.values()))}, per channel {sorted(before | lengths)}); "
            "is the file damaged?",
            damaged=True,
        )
    strided = family.strided and re.search(family.strided, path)
    as_wide = has_identity or in_per_group in (1, out)
    if strided or not as_wide:  # an identity needs as many in as out
        branches = [branch for branch in branches if branch.steps]
    for step in (s for b in branches for s in b.steps if s.kind == "scale"):
        if not _scales_channels(state[step.name], is_own=step.name.rpartition(".")[0] == path):
            reason = (
                f"{step.name} has shape {tuple(state[step.name].shape)}, so it scales no channels."
            )
            raise Misfit(path, reason, damaged=True)
    sizes = [(shape[2], shape[3]) for shape in kernels.values()]
    sizes += [(b.branch.average_pool or 1,) * 2 for b in branches if b.kernel_key is None]
    largest = (max(h for h, _ in sizes), max(w for _, w in sizes))
    if any((largest[0] - h) % 2 or (largest[1] - w) % 2 for h, w in sizes):
        raise Misfit(path, f"kernels of sizes {sizes} have no common centre.", damaged=False)
    key = next((key for key, shape in kernels.items() if tuple(shape[2:]) == largest), None)
    folded = None if keeps_outer_norm(state, path, family) else outer
    return TrainBlock(path, family, tuple(branches), folded, out, in_per_group, largest, key)


def _scales_channels(scale: Tensor, is_own: bool) -> bool:
    """Whether it multiplies channels: a parameter of the block itself (``is_own``) is broadcast, so
    its last two axes are height and width; a layer brings it into shape."""
    shape = tuple(scale.shape)
    along = shape[-2:] == (1, 1) and (len(shape) == 3 or (len(shape) == 4 and shape[0] == 1))
    return scale.numel() == 1 or along or (scale.ndim == 1 and not is_own)


def _lengths(
    state: State, branches: list[TrainBranch], outer: Step | None
) -> tuple[set[int], set[int]]:
    """Channels of all that works on each alone: in front of a branch's kernel, and the rest."""
    before: set[int] = set()
    after = set() if outer is None else _numbers(state, outer)
    for branch in branches:
        mixing = [place for place, step in enumerate(branch.steps) if step.mixes]
        for place, step in enumerate(branch.steps):
            (before if mixing and place < mixing[-1] else after).update(_numbers(state, step))
    return before, after


def _numbers(state: State, step: Step) -> set[int]:
    """How many numbers its tensors hold; a scale may be one for all channels."""
    if step.kind == "scale":
        return {state[step.name].numel()} - {1}
    leaves = ("bias",) if step.mixes else BN_LEAVES
    return {state[key].numel() for leaf in leaves if (key := f"{step.name}.{leaf}") in state}
