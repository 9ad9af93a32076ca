"""Weights of a fused torch module against what its original folds to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..reparam.blocks import below
from ..reparam.linear import LinearConv, NotOneConv
from ..reparam.modules.candidate import Candidate
from ..reparam.modules.find import find_modules
from ..reparam.modules.fold import fold_candidate
from .weights import Meant, WeightCheck, compare_weights, not_compared, positive

Pair = tuple[str, Meant, Tensor | None]


def check_module_weights(original: nn.Module, fused: nn.Module, unit: float) -> WeightCheck:
    """Fold the blocks of ``original`` again, and compare all other tensors as they are.

    Where a half-precision model was cast before it was fused, or after, its folded weights differ
    by its ``unit`` roundoff.
    """
    before, after = _tensors(original), _tensors(fused)
    folds = list(_folds(original, after, dict(fused.named_modules(remove_duplicate=False))))
    made = {name for name, *_ in folds}
    carried = [key for key in before if key in after and key not in made]
    if unknown := sorted(after.keys() - made - set(carried)):
        return not_compared(f"fuse does not make {unknown[0]} of the original")
    pairs = [*folds, *((key, Meant(before[key].detach().cpu()), after[key]) for key in carried)]
    return compare_weights(pairs, must_be_exact=False, unit=unit)


def _folds(
    original: nn.Module, after: Mapping[str, Tensor], others: Mapping[str, nn.Module]
) -> Iterator[Pair]:
    """Of every block that is another module among ``others``, whose tensors are ``after``."""
    loud = {one.paths[0]: one for one in find_modules(_magnitudes(original), ()).candidates}
    for candidate in find_modules(original, ()).candidates:
        places = [others.get(path, candidate.module) for path in candidate.paths]
        fused = [
            below(path, candidate.family.fused)
            for path, other in zip(candidate.paths, places, strict=True)
            if type(other) is not type(candidate.module)
        ]
        if not fused:
            continue  # inside of one that is fused as a whole, or left
        try:
            values, sizes = _fold(candidate), _fold(_with_sums(loud[candidate.paths[0]]))
        except NotOneConv:
            continue
        kernel = Meant(values.kernel.cpu(), sizes.kernel.cpu(), torch.float64)
        bias = Meant(values.bias.cpu(), sizes.bias.cpu(), torch.float64)
        for path in fused:
            for leaf, meant in (("weight", kernel), ("bias", bias)):
                key = below(path, leaf)
                yield key, meant, after.get(key)


def _fold(candidate: Candidate) -> LinearConv:
    return fold_candidate(candidate).conv


def _with_sums(candidate: Candidate) -> Candidate:
    return replace(candidate, block=positive(candidate.block))


def _magnitudes(original: nn.Module) -> nn.Module:
    """A copy of which nothing cancels when it is folded, of the same absolute values."""
    loud = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in loud.parameters():
            parameter.abs_()
        for name, buffer in loud.named_buffers():
            if name.rpartition(".")[2] == "running_mean":
                buffer.copy_(-buffer.abs())
    return loud


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """A module may keep other things among its state."""
    return {key: t for key, t in model.state_dict().items() if isinstance(t, Tensor)}
