"""Finding re-parameterizable blocks in a torch module; the modules say what keys cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from ..blocks import Misfit, TrainBlock, below, read_block
from ..closed_world import Names, deployed_blocks
from ..families import FAMILIES
from ..family import NUMBER, BlockFamily, Branch
from .candidate import Candidate
from .obstacles import obstacles
from .swap import FusedBlock
from .tree import Tree, hidden_step, read_tree


@dataclass(frozen=True)
class Search:
    """Blocks in pre-order, those inside others too; ``left``: what looks like one, and why not."""

    candidates: list[Candidate]
    left: dict[str, str]
    #: The user's own families of which the model has nothing.
    unmatched: list[BlockFamily]


def find_modules(model: nn.Module, families: Sequence[BlockFamily]) -> Search:
    """Look for blocks of the table's families and of the user's own.

    Where they stand never decides: eps, which the place stands for, is the module's own. The
    exception are plain convolutions with batch norm, which anything could be.
    """
    tree = read_tree(model)
    found: dict[int, Candidate] = {}
    misfits: list[tuple[nn.Module, BlockFamily, Misfit]] = []
    hidden: dict[str, tuple[BlockFamily, str]] = {}
    every = (*families, *(f for f in FAMILIES if not f.companion))
    likely = [f for f in every if not f.on_request or f in families]
    for path, module in tree.modules.items():
        if id(module) in found:
            found[id(module)].paths.append(path)
            continue
        for family in (f for f in likely if _is_sought(path, f)):
            if id(module) not in found and (reason := hidden_step(tree, path, family)):
                hidden[path] = family, reason
                break
            if not _may_stand(tree, path, family):
                continue
            try:
                block = read_block(tree.state, path, family)
            except Misfit as error:
                misfits.append((module, family, error))
                continue
            if block is not None:
                candidate = _candidate(tree, module, block, every, families)
                if candidate.obstacle is None:
                    found[id(module)] = candidate
                    break
                found.setdefault(id(module), candidate)  # unless another family defines it all
    candidates = list(found.values())
    strangers = [
        (family, misfit) for module, family, misfit in misfits
        if id(module) not in found and misfit.path not in hidden
        and _is_worth_saying(module, family, misfit, candidates)
    ]  # fmt: skip
    left = {path: reason for path, (_, reason) in hidden.items()}
    for _, misfit in strangers:  # what may follow is advice on checkpoints
        left.setdefault(misfit.path, misfit.reason.partition(";")[0].rstrip("."))
    _, placeholders = deployed_blocks(tree.state, Names(tree.state), every)
    for path, reason in placeholders.items():
        holder = tree.modules[path]
        if id(holder) not in found and not isinstance(holder, FusedBlock):
            left.setdefault(path, reason)
    met = [c.family for c in candidates] + [f for f, _ in (*hidden.values(), *strangers)]
    branches = [_stepped(family) for family in met]
    unmatched = [family for family in families if _stepped(family) not in branches]
    return Search(candidates, left, unmatched)


def _is_worth_saying(
    module: nn.Module, family: BlockFamily, misfit: Misfit, candidates: Iterable[Candidate]
) -> bool:
    """A class of the family's name, or what is damaged among blocks of the family.

    One that has none of the family's kernels says nothing: batch norms have the same names in most.
    """
    steps = [step.replace(NUMBER, "0") for branch in family.branches for step in branch.steps]
    kernels = [name for name, tensor in module.named_parameters() if tensor.ndim > 1]
    if not any(name.startswith(f"{step}.") for name in kernels for step in steps):
        return False
    named_so = re.split(r"\W", family.block)[0] == type(module).__name__
    present = any(candidate.family.family == family.family for candidate in candidates)
    return named_so or (misfit.damaged and present and len(family.branches) > 1)


def _is_sought(path: str, family: BlockFamily) -> bool:
    """A single layer is a block at its own place only; of others, the check of forward decides."""
    is_plain = family.only_there and len(_stepped(family)) == 1
    return not (family.companion or (is_plain and not re.search(family.where, path)))


def _may_stand(tree: Tree, path: str, family: BlockFamily) -> bool:
    """Whether a branch is there, or a part of one."""
    stepped = _stepped(family)
    starts = [branch for branch in stepped if not branch.optional] or stepped
    names = (below(path, step.replace(NUMBER, "0")) for b in starts for step in b.steps)
    return any(f"{name}.weight" in tree.state for name in names)


def _stepped(family: BlockFamily) -> tuple[Branch, ...]:
    return tuple(branch for branch in family.branches if branch.steps)


def _candidate(
    tree: Tree,
    module: nn.Module,
    block: TrainBlock,
    every: Iterable[BlockFamily],
    own: Sequence[BlockFamily],
) -> Candidate:
    """Families that differ beyond their tensors only are told apart by the block's children."""

    def rank(family: BlockFamily) -> tuple[bool, ...]:
        here = bool(family.where and re.search(family.where, block.path))
        usual = here or (family.fused != "" and not family.only_there)
        return family not in own, not here, not usual

    candidates = []
    for family in every:
        if family.companion or _stepped(family) != _stepped(block.family):
            continue
        alike = read_block(tree.state, block.path, family)
        if alike is None:
            continue
        candidate = Candidate([block.path], module, alike)
        for step in (s for branch in alike.branches for s in branch.steps):
            is_scale = step.kind == "scale"
            candidate.steps[step.name] = (
                tree.state[step.name] if is_scale else tree.modules[step.name]
            )
        candidate.obstacle = next(obstacles(candidate), None)
        candidates.append(candidate)
    return min(candidates, key=lambda c: (c.obstacle is not None, *rank(c.family)))
