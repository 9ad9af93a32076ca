"""What stands in the way of replacing a block, beyond the numbers: children, hooks, its forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from ..blocks import below
from ..closed_world import training_strangers
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
    """Children, parameters and buffers that the family does not define (see closed_world)."""
    module, family, path = candidate.module, candidate.family, candidate.block.path
    if not family.fused and candidate.tail:
        yield f"{next(iter(candidate.tail))}: blocks of {family.family} have no such child"
    kinds = {name: type(module.get_submodule(name)).__name__ for name in _layers(candidate)}
    parameters = dict(module.named_parameters())
    names = [*kinds, *parameters, *(name for name, _ in module.named_buffers())]
    for name in training_strangers([below(path, name) for name in names], candidate.block):
        if name in kinds:
            yield f"{name}, a {kinds[name]}, is nothing that {family.block} of {family.family} has"
        else:
            kind = "parameter" if name in parameters else "buffer"
            yield f"{name} is no {kind} that {family.block} of {family.family} has"


def _layers(candidate: Candidate) -> Iterator[str]:
    """Modules without children, which may act without tensors, but for those that hold a scale."""
    scales = tuple(step.name for step in candidate.block.steps() if step.kind == "scale")
    for name, child in candidate.module.named_modules():
        is_leaf = not isinstance(child, _CONTAINERS) and next(child.children(), None) is None
        holds_scale = any(s.startswith(f"{below(candidate.block.path, name)}.") for s in scales)
        if name and is_leaf and not holds_scale and not isinstance(child, _IDLE):
            yield name
