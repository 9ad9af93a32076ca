"""The torch front end: a model in, the same model with fused blocks out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from ...errors import UserError
from ..blocks import below
from ..family import BlockFamily
from ..geometry import NotOneConv, Pair
from .candidate import Candidate
from .find import Search, find_modules
from .fold import fold_candidate
from .given import checked
from .obstacles import hooks
from .swap import FusedBlock, become, build_layer, check_forward


@dataclass(frozen=True)
class FusedModule:
    """A block that is one convolution now; ``paths``: all its places, if it is used in several."""

    paths: tuple[str, ...]
    family: str
    block: str
    kernel_size: Pair
    groups: int

    @property
    def path(self) -> str:
        return self.paths[0]


@dataclass(frozen=True)
class LeftModule:
    """A block that stays as it was."""

    path: str
    reason: str


@dataclass(frozen=True)
class ModuleFusion:
    """``model`` is the new model, or the given one if that was changed in place."""

    model: nn.Module
    fused: tuple[FusedModule, ...]
    left: tuple[LeftModule, ...]
    #: What was looked for and is not there at all.
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.fused)} blocks fused, {len(self.left)} left", *self.notes]
        lines += [f"left {left.path or 'the root'}: {left.reason}" for left in self.left]
        return "\n".join(lines)


def fuse(
    model: nn.Module, *, inplace: bool = False, families: Sequence[BlockFamily] = ()
) -> nn.Module:
    """A copy of ``model`` in which every re-parameterizable block is one convolution.

    A UserWarning names every block that had to be left, with the reason, and says so where there
    is no block at all. ``inplace`` changes the model itself; ``families`` describes blocks that the
    family table does not know.

    Raises:
        UserError: a block is in training mode, the model cannot be copied, or a family is
            described so that it can be no block.
    """
    fusion = fuse_modules(model, inplace=inplace, families=families)
    for left in fusion.left:
        text = f"repvgg_deploy.fuse left {left.path or 'the root'} as it was: {left.reason}"
        warnings.warn(text, UserWarning, stacklevel=2)
    for note in fusion.notes:
        warnings.warn(f"repvgg_deploy.fuse: {note}", UserWarning, stacklevel=2)
    return fusion.model


@torch.no_grad()
def fuse_modules(
    model: nn.Module, *, inplace: bool = False, families: Sequence[BlockFamily] = ()
) -> ModuleFusion:
    """As :func:`fuse`, but what was fused and what was left comes back instead of warnings."""
    if not isinstance(model, nn.Module):
        raise UserError(f"fuse takes a torch.nn.Module, not a {type(model).__name__}.")
    families = checked(families)
    search = find_modules(model, families)
    _refuse_training(search.candidates)
    if not inplace:
        obstacles = {candidate.paths[0]: candidate.obstacle for candidate in search.candidates}
        model = _copy(model)
        search = find_modules(model, families)
        for candidate in search.candidates:  # hooks on tensors are not copied
            candidate.obstacle = candidate.obstacle or obstacles.get(candidate.paths[0])
    fused: list[FusedModule] = []
    left = [LeftModule(path, reason) for path, reason in search.left.items()]
    for candidate in sorted(search.candidates, key=_depth):  # no block before one that holds it
        within = {done for one in fused for done in one.paths}
        paths = [path for path in candidate.paths if not _is_within(path, within)]
        if not paths:
            continue
        try:
            fused.append(_fuse_one(candidate, paths))
        except NotOneConv as obstacle:
            left.append(LeftModule(paths[0], str(obstacle)))
    places = [path for candidate in search.candidates for path in candidate.paths]
    fused.sort(key=lambda one: places.index(one.path))
    if fused:
        _renew_wrappers(model)
    return ModuleFusion(model, tuple(fused), tuple(left), tuple(_notes(model, search)))


def _notes(model: nn.Module, search: Search) -> Iterator[str]:
    for family in search.unmatched:
        names = ", ".join(step for branch in family.branches for step in branch.steps)
        yield f"family {family.family!r} matched nothing; no module has all of {names}"
    is_fused = any(isinstance(module, FusedBlock) for module in model.modules())
    if not (search.candidates or search.left or is_fused):
        yield "no known block found; docs/python.md shows how to describe your own"


def _depth(candidate: Candidate) -> int:
    """Of its deepest place, which is below those of every block around it."""
    return max(len(path.split(".")) if path else 0 for path in candidate.paths)


def _fuse_one(candidate: Candidate, paths: list[str]) -> FusedModule:
    module, family = candidate.module, candidate.family
    if candidate.obstacle is not None:
        raise NotOneConv(candidate.obstacle)
    tensors = (*module.parameters(), *module.buffers())
    if len({tensor.device for tensor in tensors}) > 1:
        raise NotOneConv("its tensors are on several devices")
    folded = fold_candidate(candidate)
    tail = {name: candidate.tail[name] for name in check_forward(candidate, folded)}
    for name in candidate.tail.keys() - tail.keys():
        if obstacle := next(hooks(name, candidate.tail[name]), None):
            raise NotOneConv(obstacle)
    become(module, build_layer(candidate, folded), family.fused, tail)
    conv = folded.conv
    return FusedModule(tuple(paths), family.family, family.block, conv.kernel_size, conv.groups)


def _is_within(path: str, blocks: set[str]) -> bool:
    outer = accumulate(path.split("."), below)
    return "" in blocks or not blocks.isdisjoint(outer)


def _refuse_training(candidates: Sequence[Candidate]) -> None:
    for candidate in candidates:
        outer = candidate.family.outer_norm
        steps = [*candidate.steps.values(), outer and candidate.module.get_submodule(outer)]
        norms = (step for step in steps if isinstance(step, _NormBase))
        if any(module.training for module in (candidate.module, *norms)):
            path = candidate.paths[0]
            name = f"block {path}" if path else "the root"
            raise UserError(
                f"{name} is in training mode, where batch norm uses the statistics of each batch "
                "and no convolution can stand for it; call model.eval() before fuse."
            )


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a stranger's __deepcopy__ may raise
        why = str(error).partition(". ")[0] or type(error).__name__
        raise UserError(
            f"the model cannot be copied ({why}); pass inplace=True to change it itself."
        ) from error


def _renew_wrappers(model: nn.Module) -> None:
    """What holds on to old parameters lets go of them; compiled code sees the change itself."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.__setstate__(module.__getstate__())  # type: ignore[no-untyped-call]
