"""Finding re-parameterizable blocks in a torch module; the modules say what keys cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from .blocks import BN_LEAVES, Misfit, State, TrainBlock, below, read_block
from .families import FAMILIES
from .family import NUMBER, BlockFamily, Branch

#: These do nothing in eval mode,
_IDLE = (nn.Identity, _DropoutNd)
#: and these nothing where they are empty.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Candidate:
    """A module that has the branches of a family; ``paths``: all of its places in the tree."""

    paths: list[str]
    module: nn.Module
    block: TrainBlock
    #: Why it cannot be fused, as far as its children say.
    obstacle: str | None = None
    #: The branches' operations by their full names, scale parameters included.
    steps: dict[str, nn.Module | Tensor] = field(default_factory=dict)

    @property
    def family(self) -> BlockFamily:
        return self.block.family

    @property
    def tail(self) -> dict[str, nn.Module]:
        """The modules after the sum, in the order of forward."""
        named = self.module._modules
        return {name: child for name in self.family.tail if (child := named.get(name)) is not None}


def find_modules(
    model: nn.Module, families: Sequence[BlockFamily]
) -> tuple[list[Candidate], dict[str, str]]:
    """Blocks in pre-order, those inside others too, and what looks like one but is not: why.

    Where they stand never decides: eps, which the place stands for, is the module's own. The
    exception are plain convolutions with batch norm, which anything could be.
    """
    state = tensors(model)
    found: dict[int, Candidate] = {}
    misfits: list[tuple[nn.Module, BlockFamily, Misfit]] = []
    every = (*families, *(f for f in FAMILIES if not f.companion))
    likely = [f for f in every if not f.on_request or f in families]
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in found:
            found[id(module)].paths.append(path)
            continue
        for family in likely:
            if not _may_stand(state, path, family):
                continue
            try:
                block = read_block(state, path, family)
            except Misfit as error:
                misfits.append((module, family, error))
                continue
            if block is not None:
                found[id(module)] = _candidate(model, module, block, state, every, families)
                break
    present = {candidate.family.family for candidate in found.values()}
    left: dict[str, str] = {}
    for module, family, misfit in misfits:
        named_so = re.split(r"\W", family.block)[0] == type(module).__name__
        known = misfit.damaged and family.family in present and len(family.branches) > 1
        if id(module) not in found and (named_so or known):
            left.setdefault(misfit.path, misfit.reason)
    return list(found.values()), left


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by path; norms and convolutions of other kinds look like ours.

    So blocks are found that have one of those in a branch; the fold then says what is wrong.
    """
    state: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state.update(model.named_buffers(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (_NormBase, nn.GroupNorm)):
            own = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
            for leaf in BN_LEAVES:
                state.setdefault(below(path, leaf), torch.empty(own, device="meta"))
        elif isinstance(module, nn.Conv1d):
            state[below(path, "weight")] = module.weight[..., None]
        elif isinstance(module, nn.Conv3d):
            state[below(path, "weight")] = module.weight.flatten(3)
    return state


def _may_stand(state: State, path: str, family: BlockFamily) -> bool:
    if family.companion or (family.only_there and not re.search(family.where, path)):
        return False
    stepped = _stepped(family)
    starts = [branch for branch in stepped if not branch.optional] or stepped
    names = (below(path, branch.steps[0].replace(NUMBER, "0")) for branch in starts)
    return any(f"{name}.weight" in state for name in names)


def _stepped(family: BlockFamily) -> tuple[Branch, ...]:
    return tuple(branch for branch in family.branches if branch.steps)


def _candidate(
    model: nn.Module,
    module: nn.Module,
    block: TrainBlock,
    state: State,
    every: Iterable[BlockFamily],
    own: Sequence[BlockFamily],
) -> Candidate:
    """Families that differ beyond their tensors only are told apart by the block's children."""

    def rank(family: BlockFamily) -> tuple[bool, ...]:
        here = bool(family.where and re.search(family.where, block.path))
        return family not in own, not here, not (here or family.fused)

    candidates = []
    for family in every:
        if family.companion or _stepped(family) != _stepped(block.family):
            continue
        alike = read_block(state, block.path, family)
        if alike is None:
            continue
        candidate = Candidate([block.path], module, alike)
        for step in (s for branch in alike.branches for s in branch.steps):
            is_scale = step.kind == "scale"
            candidate.steps[step.name] = (
                state[step.name] if is_scale else model.get_submodule(step.name)
            )
        candidate.obstacle = next(_obstacles(candidate), None)
        candidates.append(candidate)
    return min(candidates, key=lambda c: (c.obstacle is not None, *rank(c.family)))


def _obstacles(candidate: Candidate) -> Iterator[str]:
    """Children and parameters that the family does not know."""
    module, family = candidate.module, candidate.family
    start = len(candidate.paths[0]) + 1 if candidate.paths[0] else 0
    steps = {name[start:] for name in candidate.steps}
    after = [*candidate.tail, *([family.outer_norm] if family.outer_norm else [])]
    known = {*steps, *after, *(branch.attribute for branch in family.branches)}
    if not family.fused and candidate.tail:
        yield f"{next(iter(candidate.tail))}: blocks of {family.family} have no such child"
    for name, child in module.named_modules():
        first = name.split(".")[0]
        if not name or first in candidate.tail or isinstance(child, _IDLE):
            continue
        if child._forward_hooks or child._forward_pre_hooks:
            yield f"{name} has a forward hook, which would be lost with it"
        is_leaf = not isinstance(child, _CONTAINERS) and next(child.children(), None) is None
        holds_scale = any(step.startswith(f"{name}.") for step in steps)
        if is_leaf and not holds_scale and name not in known:
            kind = type(child).__name__
            yield f"{name}, a {kind}, is nothing that {family.block} of {family.family} has"
    owned = tuple(f"{name}." for name in (*steps, *after))
    for name, _ in module.named_parameters():
        if name not in steps and not name.startswith(owned):
            yield f"{name} is no parameter that {family.block} of {family.family} has"
