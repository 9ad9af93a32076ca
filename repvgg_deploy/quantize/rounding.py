"""Weights to integers: scales by error, what of the error so far can be made up for, rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .patches import PatchStatistics
from .qdq import representable
from .ranges import LEVELS

#: Scales that are tried for an output channel, as parts of the one that clips nothing.
_PARTS = np.linspace(0.6, 1.0, 21)
#: Ridge of the compensation, in variances of each input: few images cannot bend the weights.
_RIDGE = 1.0
#: Added to the variances in rounding, as a part of their mean (GPTQ, section 3.3).
_DAMPING = 0.01
#: Columns whose errors are handed on together, for speed alone.
_BLOCK = 128


@dataclass(frozen=True)
class Rounded:
    """``integers`` like the weight, [out, ...]; ``scales`` and ``bias`` [out]."""

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def round_layer(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    statistics: PatchStatistics | None,
    *,
    learned: bool,
    correct_bias: bool,
    float_type: str,
) -> Rounded:
    """A layer in int8. ``weight`` is [out, in/groups, ...], ``bias`` [out].

    Without ``statistics`` to the nearest. ``learned``: the weights first make up for what the
    layers before have lost, and each rounding error is then made up for by the weights not yet
    rounded. ``correct_bias``: the bias takes up the mean of the error that is left.
    """
    groups = 1 if statistics is None else len(statistics.mean)
    rows = torch.from_numpy(weight.astype(np.float64)).reshape(groups, len(weight) // groups, -1)
    importance = torch.ones(groups, rows.shape[2], dtype=torch.float64)
    target = rows
    if statistics is not None and learned:
        importance = statistics.covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
        target = _compensated(rows, statistics)
    scales = _row_scales(target, importance, float_type)
    if statistics is not None and learned:
        integers = _round_in_turn(target, statistics.covariance, scales)
    else:
        integers = _nearest(target, scales[:, :, None])
    held = None if bias is None else bias.astype(np.float64)
    if statistics is not None and correct_bias:
        kept = integers * scales[:, :, None]
        lost = torch.einsum("grk,gk->gr", rows, statistics.mean)
        lost -= torch.einsum("grk,gk->gr", kept, statistics.quantized_mean)
        held = (0 if held is None else held) + lost.reshape(-1).numpy()
    return Rounded(
        integers.reshape(weight.shape).numpy().astype(np.int8),
        scales.reshape(-1).numpy().astype(np.float32),
        None if held is None else np.asarray(held, np.float32),
    )


def _compensated(rows: Tensor, statistics: PatchStatistics) -> Tensor:
    """W + D with D = W E (C + ridge)^-1, the least squares answer to (W + D) q = W x."""
    covariance = statistics.covariance
    variances = covariance.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * (variances + 1e-3 * variances.mean(1, keepdim=True)) + 1e-12
    regular = covariance + torch.diag_embed(ridge)
    triangle = torch.linalg.cholesky(regular)
    return rows + torch.cholesky_solve((rows @ statistics.error).mT, triangle).mT


def _row_scales(rows: Tensor, importance: Tensor, float_type: str) -> Tensor:
    """Of each output channel the scale with the smallest squared error: [groups, rows]."""
    peaks = rows.abs().amax(2)
    best = torch.full_like(peaks, float("inf"))
    scales = peaks / LEVELS
    for part in _PARTS:
        tried = torch.from_numpy(representable((peaks * part / LEVELS).numpy(), float_type))
        tried = tried.double()
        error = rows - _nearest(rows, tried[:, :, None]) * tried[:, :, None]
        total = (error**2 * (importance[:, None] + 1e-12)).sum(2)
        better = total < best
        best, scales = torch.where(better, total, best), torch.where(better, tried, scales)
    return scales


def _nearest(values: Tensor, scales: Tensor) -> Tensor:
    return (values / scales).round().clamp(-LEVELS, LEVELS)


def _round_in_turn(rows: Tensor, covariance: Tensor, scales: Tensor) -> Tensor:
    """Column by column, those of the largest variance first; the columns that are left take up
    what a rounding changes in the output (Frantar et al., GPTQ, ICLR 2023, algorithm 1).

    ``rows`` [groups, rows, K]; the integers come back in the same shape.
    """
    variances = covariance.diagonal(dim1=1, dim2=2)
    damping = _DAMPING * variances.mean(1, keepdim=True) + 1e-12
    order = variances.argsort(dim=1, descending=True, stable=True)
    back = order.argsort(1)
    index = order[:, None, :].expand_as(rows)
    left = rows.gather(2, index)
    damped = covariance + torch.diag_embed(damping.expand_as(variances))
    square = order[:, None, :].expand_as(damped)
    damped = damped.gather(2, square).gather(1, square.mT)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse).mT
    integers = torch.empty_like(left)
    width = left.shape[2]
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        errors = torch.empty_like(left[:, :, start:end])
        for column in range(start, end):
            values = left[:, :, column]
            integers[:, :, column] = _nearest(values, scales)
            lost = values - integers[:, :, column] * scales
            errors[:, :, column - start] = lost / upper[:, column, column, None]
            row = upper[:, None, column, column:end]
            left[:, :, column:end] -= errors[:, :, column - start, None] * row
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    return integers.gather(2, back[:, None, :].expand_as(integers))
