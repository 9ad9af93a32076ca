"""What stands in the way of replacing a block, beyond the numbers: children, hooks, its forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from .candidate import Candidate

#: These do nothing in eval mode,
_IDLE = (nn.Identity, _DropoutNd)
#: and these nothing where they are empty.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def obstacles(candidate: Candidate) -> Iterator[str]:
    """Why the block cannot be replaced, as far as its class, its children and its hooks say."""
    yield from _forward(candidate.module)
    yield from _strangers(candidate)
    kept = candidate.tail
    for name, child in candidate.module.named_children():
        if name not in kept:
            yield from hooks(name, child)
    for name, parameter in candidate.module.named_parameters(recurse=False):
        yield from _tensor_hooks(name, parameter)


def hooks(path: str, module: nn.Module) -> Iterator[str]:
    """One line for each hook on ``module``, below it, or on a parameter there."""
    for name, child in module.named_modules(prefix=path):
        for attribute, value in vars(child).items():
            if attribute.endswith("_hooks") and value:
                kind = attribute.strip("_").removesuffix("_hooks").replace("_", " ")
                yield f"{name} has a {kind} hook, which would be lost with it"
    for name, parameter in module.named_parameters(prefix=path):
        yield from _tensor_hooks(name, parameter)


def _tensor_hooks(name: str, parameter: nn.Parameter) -> Iterator[str]:
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        yield f"{name} has a gradient hook, which would be lost with it"


def _forward(module: nn.Module) -> Iterator[str]:
    """A fused block is called with one input and nothing else."""
    if "forward" in vars(module):
        yield "its forward was replaced on the instance"
    elif type(module).forward is nn.Module.forward:
        yield (
            "it has no forward of its own (a graph of torch.fx calls the layers one by one); "
            "fuse the model before it is traced"
        )
    else:
        given = list(inspect.signature(module.forward).parameters.values())
        more = given[1:] or [one for one in given if one.kind is one.VAR_POSITIONAL]
        if more:
            yield f"its forward takes more than one input ({more[0].name}), a fused block just one"


def _strangers(candidate: Candidate) -> Iterator[str]:
    """Children, parameters and buffers that the family does not know."""
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
        is_leaf = not isinstance(child, _CONTAINERS) and next(child.children(), None) is None
        holds_scale = any(step.startswith(f"{name}.") for step in steps)
        if is_leaf and not holds_scale and name not in known:
            kind = type(child).__name__
            yield f"{name}, a {kind}, is nothing that {family.block} of {family.family} has"
    owned = tuple(f"{name}." for name in (*steps, *after))
    tensors = {"parameter": module.named_parameters(), "buffer": module.named_buffers()}
    for kind, named in tensors.items():
        for name, _ in named:
            if name not in steps and not name.startswith(owned):
                yield f"{name} is no {kind} that {family.block} of {family.family} has"
