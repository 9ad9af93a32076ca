"""What stands in the way of replacing a block, beyond the numbers: children, hooks, its forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

if TYPE_CHECKING:
    from .module_find import Candidate

#: These do nothing in eval mode,
_IDLE = (nn.Identity, _DropoutNd)
#: and these nothing where they are empty.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def obstacles(candidate: Candidate) -> Iterator[str]:
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
