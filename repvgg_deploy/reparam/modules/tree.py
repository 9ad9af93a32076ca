"""A torch module as paths: its modules, its tensors, and what keeps tensors out of sight."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..blocks import BN_LEAVES, below
from ..family import NUMBER, BlockFamily, Branch

#: Names under which wrappers keep what they wrap: LoRA, torch.compile, checkpointing, the rest.
_WRAPPED = ("base_layer", "_orig_mod", "_checkpoint_wrapped_module", "module")


@dataclass(frozen=True)
class Tree:
    """``hidden``: modules whose tensors cannot be read, and why."""

    modules: dict[str, nn.Module]
    state: dict[str, Tensor]
    hidden: dict[str, str]


def read_tree(model: nn.Module) -> Tree:
    modules = dict(model.named_modules(remove_duplicate=False))
    hidden = {path: why for path, module in modules.items() if (why := _why_hidden(module))}
    return Tree(modules, _tensors(model, modules, hidden), hidden)


def hidden_step(tree: Tree, path: str, family: BlockFamily) -> str | None:
    """Why the block that stands here, as its children's names say, cannot be read.

    None where none of its tensors are hidden, or where it is no block of ``family``.
    """
    stepped = [branch for branch in family.branches if branch.steps]
    here = [_present(tree, path, branch) for branch in stepped] if tree.hidden else []
    complete = all(
        steps or branch.optional for steps, branch in zip(here, stepped, strict=bool(here))
    )
    if not any(here) or not complete:
        return None
    outer = [family.outer_norm] if family.outer_norm else []
    if not all(_is_there(tree, path, step) for step in outer):
        return None
    for step in (step for steps in (*here, outer) for step in steps):
        if name := _hidden_name(tree, path, step):
            return f"{name} {tree.hidden[below(path, name)]}"
    return None


def _present(tree: Tree, path: str, branch: Branch) -> list[str]:
    """The branch's steps, as often as the block has it."""
    found: list[str] = []
    for number in range(len(tree.modules)):
        steps = [step.replace(NUMBER, str(number)) for step in branch.steps]
        kernels = {_kernel_size(tree, below(path, step)) for step in steps}
        if not all(_is_there(tree, path, step) for step in steps):
            break
        if branch.kernel and branch.kernel not in kernels:
            break
        found += steps
        if steps == list(branch.steps):
            break
    return found


def _is_there(tree: Tree, path: str, step: str) -> bool:
    full = below(path, step)
    return full in tree.modules or full in tree.state or bool(_hidden_name(tree, path, step))


def _hidden_name(tree: Tree, path: str, step: str) -> str | None:
    """What hides a step: itself, or what it is in."""
    names = accumulate(step.split("."), below)
    return next((name for name in names if below(path, name) in tree.hidden), None)


def _kernel_size(tree: Tree, name: str) -> int | None:
    weight = tree.state.get(f"{name}.weight")
    if weight is not None:
        return weight.shape[-1]
    module = tree.modules.get(name)
    wrapped = None if module is None else _wrapped(module)
    size = getattr(wrapped or module, "kernel_size", None)
    return size[-1] if isinstance(size, tuple) else None


def _wrapped(module: nn.Module) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in _WRAPPED if name in children), None)


def _why_hidden(module: nn.Module) -> str | None:
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return "is a TorchScript module; fuse the model before it is scripted or traced"
    own = (*module._parameters.values(), *module._buffers.values())
    if any(tensor is not None and is_lazy(tensor) for tensor in own):
        return "is lazy and has no weights yet; run the model on an example first"
    if parametrize.is_parametrized(module):
        names = ", ".join(repr(name) for name in module.parametrizations)  # type: ignore[union-attr]
        remove = f"torch.nn.utils.parametrize.remove_parametrizations(module, {names})"
        return f"is parametrized; call {remove} first"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            remove = f"torch.nn.utils.prune.remove(module, {hook._tensor_name!r})"
            return f"is pruned; call {remove} first"
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            norm = "weight" if isinstance(hook, WeightNorm) else "spectral"
            return f"has {norm} norm; call torch.nn.utils.remove_{norm}_norm(module) first"
    if _wrapped(module) is not None:
        return f"is wrapped in a {kind}; merge or take off the wrapper first"
    if callable(getattr(type(module), "weight", None)):
        return f"is a quantized {kind}; fuse the model before it is quantized"
    return None


def _tensors(
    model: nn.Module, modules: dict[str, nn.Module], hidden: dict[str, str]
) -> dict[str, Tensor]:
    """Parameters and buffers by path; norms and convolutions of other kinds look like ours.

    So blocks are found that have one of those in a branch; the fold then says what is wrong.
    """
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    state: dict[str, Tensor] = {path: tensor for path, tensor in named if not is_lazy(tensor)}
    for path, module in modules.items():
        if path in hidden:
            continue
        if isinstance(module, (_NormBase, nn.GroupNorm)):
            own = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
            for leaf in BN_LEAVES:
                state.setdefault(below(path, leaf), torch.empty(own, device="meta"))
        elif isinstance(module, nn.Conv1d):
            state[below(path, "weight")] = module.weight[..., None]
        elif isinstance(module, nn.Conv3d):
            state[below(path, "weight")] = module.weight.flatten(3)
    return state
