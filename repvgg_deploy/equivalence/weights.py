"""Weights carried over from one file to another: each has to be the number that it should be.

Outputs are sums of thousands of weights, so that one wrong weight, or a whole quiet channel, can
disappear in their rounding. Weights themselves have no such noise: what a step only copies or casts
has to be equal, and what it folds is known up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..reparam.blocks import State, TrainBlock
from ..reparam.state_dict import fold_block

#: A fold in float64 differs by the order of its sums, by this share of what was summed at most.
ORDER = 2.0**-45
#: A fold in the precision of the weights, as other tools make it, is this many unit roundoffs off
#: at most: one for each operation that leads to a fused weight, a second batch norm included.
ELSEWHERE = 16.0
_SINGLE = 2.0**-24
#: Converters to float16 lift weights that are smaller than this to it.
_LIFTED = 1e-7


@dataclass(frozen=True)
class WeightCheck:
    """Whether a candidate holds the reference's weights.

    ``exact``: each of ``tensors`` (``values`` numbers in all) was compared, and is the very number
    that it should be. Where that is False, ``reason`` says why, and if ``failures`` is empty the
    outputs decided alone.
    """

    exact: bool
    tensors: int
    values: int
    reason: str = ""
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meant:
    """What a tensor should hold: ``values`` as the candidate should have them, or for a fold in
    float64 with ``size``, the sum of the absolute values that each was summed from. A fold is
    rounded to ``first`` (as a fused file is) and then to the candidate's type."""

    values: Tensor
    size: Tensor | None = None
    first: torch.dtype = torch.float32

    def within(self, found: Tensor, share: float) -> Tensor:
        """Which of ``found`` are these values rounded, each up to ``share`` of its size off before
        that."""
        if self.size is None:
            meant = self.values.to(found.dtype)
            return (found == meant) | (found.isnan() & meant.isnan())
        slack = share * self.size
        low, high = (self._rounded(self.values + d, found.dtype) for d in (-slack, slack))
        return (low <= found) & (found <= high)

    def _rounded(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.to(torch.promote_types(self.first, dtype)).to(dtype)


def not_compared(reason: str) -> WeightCheck:
    """The candidate has no weights that correspond to the reference's."""
    return WeightCheck(False, 0, 0, reason)


def failed(reason: str) -> WeightCheck:
    """Weights that had to correspond to the reference's, and do not."""
    return WeightCheck(False, 0, 0, reason, (reason,))


def compare_weights(
    pairs: Iterable[tuple[str, Meant, Tensor | None]], must_be_exact: bool, unit: float = _SINGLE
) -> WeightCheck:
    """Compare (name, what it should be, what the candidate holds; None: nothing), one by one.

    ``must_be_exact``: this tool made the candidate from the reference. Else a fold may have been
    made elsewhere, in arithmetic of this ``unit`` roundoff.
    """
    tensors = values = 0
    inexact: list[str] = []
    wrong: list[str] = []
    for name, meant, found in pairs:
        tensors, values = tensors + 1, values + meant.values.numel()
        if found is None:
            wrong.append(f"{name} is missing")
        elif _sides(found) != _sides(meant.values):
            wrong.append(f"{name} is of shape {list(found.shape)}, not {list(meant.values.shape)}")
        else:
            flat = found.detach().cpu().reshape(meant.values.shape)
            if (off := int((~meant.within(flat, ORDER)).sum())) == 0:
                continue
            agrees = meant.within(flat, ELSEWHERE * unit)
            if flat.dtype == torch.float16:
                agrees |= (flat.double() - meant.values.double()).abs() <= _LIFTED
            off_elsewhere = int((~agrees).sum())
            is_wrong = must_be_exact or off_elsewhere
            count = off if must_be_exact else off_elsewhere or off
            sentence = f"{name}: {count:,} of {flat.numel():,} numbers are not the reference's"
            (wrong if is_wrong else inexact).append(sentence)
    reason = wrong[0] if wrong else ""
    if inexact and not wrong:
        reason = "they were folded otherwise, and agree within the rounding of that"
    return WeightCheck(not (wrong or inexact), tensors, values, reason, tuple(wrong))


def folded(state: State, block: TrainBlock, eps: float) -> tuple[Meant, Meant]:
    """What the fused weight and bias of a block should be."""
    sizes = fold_block(_magnitudes(state, block), positive(block), eps, torch.float64)
    values = fold_block(state, block, eps, torch.float64)
    weight, bias = (Meant(*pair) for pair in zip(values, sizes, strict=True))
    return weight, bias


def refolded(values: Tensor) -> Meant:
    """A fold of which the rounded values are known: on another machine, the last bit of float32
    may be another."""
    exact = values.double()
    ulp = 2.0**-23 * exact.abs() / ORDER
    return Meant(exact, ulp + exact.abs().max() if exact.numel() else ulp)


def _magnitudes(state: State, block: TrainBlock) -> Mapping[str, Tensor]:
    """Tensors of which nothing cancels when they are folded, of the same absolute values."""
    found = {key: state[key] for key in block.keys(state)}
    for key, tensor in found.items():
        if key.endswith("running_mean"):
            found[key] = -tensor.abs()
        elif not key.endswith("running_var") and tensor.is_floating_point():
            found[key] = tensor.abs()
    return found


def positive(block: TrainBlock) -> TrainBlock:
    """Its branches added, where one is subtracted."""
    branches = tuple(
        replace(one, branch=replace(one.branch, factor=abs(one.branch.factor)))
        for one in block.branches
    )
    return replace(block, branches=branches)


def _sides(tensor: Tensor) -> list[int]:
    """A bias may be [C, 1, 1] or [1, C, 1, 1]."""
    return [side for side in tensor.shape if side != 1]
