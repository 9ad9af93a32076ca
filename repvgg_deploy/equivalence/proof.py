"""The proof that a fused network is the training network: block by block and end to end.

Both networks walk the blocks side by side, the training form in float64 (the truth) and float32,
the deploy form in float32. Only one block at a time is held in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..models.network import RepVGG, RepVGGBlock
from ..runners.torch_network import exact_math
from .compare import RATIO_LIMIT, Comparison, compare, failure_lines, furthest

#: The algebra is exact, so in float64 only rounding may remain (relative to the branches).
EXACT_LIMIT = 1e-10

_TINY = float(np.finfo(float).tiny)

#: block name -> its kernel and bias folded in float64
Fold = Callable[[str], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Proof:
    """``parts``: every block, every squeeze-excitation and the classifier, each on its own.

    ``end_to_end`` is None where the network around the blocks is not known. ``algebra`` maps a
    block to the relative error of its float64 fold (empty: not asked).
    """

    parts: tuple[Comparison, ...]
    end_to_end: Comparison | None
    algebra: dict[str, float]
    device: str

    @property
    def worst_part(self) -> Comparison:
        worst = furthest(self.parts)
        assert worst is not None  # there are blocks
        return worst

    @property
    def worst_algebra(self) -> float | None:
        return max(self.algebra.values(), key=lambda e: (math.isnan(e), e), default=None)

    @property
    def unmeasured(self) -> str:
        """The first part at which the training network itself gives no finite number, empty where
        none does: nothing can be compared with it."""
        names = (part.name for part in self._judged if not math.isfinite(part.noise))
        return next(names, "")

    @property
    def _judged(self) -> tuple[Comparison, ...]:
        return self.parts if self.end_to_end is None else (*self.parts, self.end_to_end)

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold, the worst first; empty where it passes."""
        return failure_lines(self._judged) + [
            f"{name}: folded in float64 it differs by {error:.1e}, more than {EXACT_LIMIT:g}"
            for name, error in self.algebra.items()
            if not error <= EXACT_LIMIT
        ]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "failures": self.failures}


def prove_fusion(
    train: RepVGG,
    deploy: RepVGG,
    samples: NDArray[np.float32],
    device: torch.device,
    fold: Fold | None = None,
    limit: float = RATIO_LIMIT,
) -> Proof:
    """Compare two float32 networks of one architecture on ``samples``, [N, C, H, W].

    With ``fold`` every block's float64 fold is held against its branches as well.
    """
    comparisons: list[Comparison] = []
    algebra: dict[str, float] = {}

    def judge(name: str, true: Tensor, own: Tensor, new: Tensor) -> None:
        exact, own_array, new_array = (tensor.cpu().numpy() for tensor in (true, own, new))
        comparisons.append(compare(name, exact, own_array, new_array, limit=limit))

    train, deploy = train.to(device).eval(), deploy.to(device).eval()
    with exact_math():
        reference = candidate = torch.from_numpy(samples).to(device)
        truth = reference.double()
        for (name, block), (_, fused) in zip(train.chain, deploy.chain, strict=True):
            exact = copy.deepcopy(block).double()
            branches = exact.branches(truth)
            linear, given = exact.joined(branches), truth.float()
            judge(name, linear, block.linear(given), fused.linear(given))
            if fold is not None:
                output = _convolve(fused, truth, *fold(name))
                terms = branches if exact.outer_norm is None else [linear]
                algebra[name] = relative_error(output, torch.stack(terms))
            truth = exact.activation(linear)
            if block.squeeze_excite is not None:
                given = linear.float()
                judge(f"{name} (SE)", truth, block.activation(given), fused.activation(given))
            reference, candidate = block(reference), fused(candidate)
        head = copy.deepcopy(train.linear).double()
        truth, reference, candidate = (x.mean((2, 3)) for x in (truth, reference, candidate))
        given = truth.float()
        judge("linear", head(truth), train.linear(given), deploy.linear(given))
        judge("end to end", head(truth), train.linear(reference), deploy.linear(candidate))
    *parts, end_to_end = comparisons
    return Proof(tuple(parts), end_to_end, algebra, str(device))


def relative_error(output: Tensor, branches: Tensor) -> float:
    """The largest difference to the sum of ``branches`` [branches, N, C, H, W], relative to the
    largest value in them."""
    difference = float((output - branches.sum(0)).abs().max())
    return difference / max(float(branches.abs().max()), _TINY)


def _convolve(fused: RepVGGBlock, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """A fused block's convolution with another kernel and bias, in the dtype of ``x``."""
    conv = fused.rbr_reparam
    kernel, bias = kernel.to(x), bias.to(x)
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
