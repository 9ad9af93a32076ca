"""What a layer multiplies its weights with: the patches of its input, sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper
from torch import Tensor
from torch.nn import functional as F

from ..runners.onnx_operators import find_padding
from .threads import in_parallel, one_thread

#: Positions taken of each image. Neighbours resemble one another, other images do not.
POSITIONS = 64

#: Patches that are multiplied at a time: a product of few columns takes as long as one of many.
_TOGETHER = 1024
#: Rows of a product that a thread computes at a time.
_ROWS = 256

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class PatchStatistics:
    """Second moments of a layer's input, over patches; [groups, K] and [groups, K, K].

    ``mean`` is of the float network's patches x and ``quantized_mean`` of the quantized one's q;
    ``covariance`` is that of q, and ``error`` the covariance of x - q with q: it says what of the
    error so far can be told from q, and so be made up for. ``signal`` and ``noise`` are the sums of
    squares of x and x - q. Float64.
    """

    mean: Tensor
    quantized_mean: Tensor
    covariance: Tensor
    error: Tensor
    signal: float
    noise: float


def measure(
    pairs: Iterable[Pair], node: NodeProto, weight: NDArray[Any], seed: int
) -> PatchStatistics:
    """Statistics over ``pairs`` of float and quantized inputs [n, C, ...] of a Conv or Gemm.

    ``weight`` is [out, in/groups, ...]. Positions are drawn with ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: _Sums | None = None
    held: list[tuple[Tensor, Tensor]] = []
    signal = noise = 0.0
    for values, quantized in pairs:
        signal += float((values.astype(np.float64) ** 2).sum())
        noise += float(((values - quantized).astype(np.float64) ** 2).sum())
        held.append(_patches(np.stack([values, quantized]), node, weight, generator))
        sums = sums or _Sums(held[0][1])
        if sum(x.shape[2] for x, _ in held) >= _TOGETHER:
            sums.add(held)
            held = []
    assert sums is not None
    if held:
        sums.add(held)
    return sums.statistics(signal, noise)


class _Sums:
    """Sums over patches in float64. Squares are taken about a mean, that of the ``first`` patches:
    float32 would lose small variances."""

    def __init__(self, first: Tensor) -> None:
        self._pivot = first.mean(2, keepdim=True)
        groups, width, _ = first.shape
        shapes = [(groups, width)] * 2 + [(groups, width, width)] * 2
        self._sums = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        self._count = 0

    def add(self, held: list[tuple[Tensor, Tensor]]) -> None:
        x, q = (torch.cat(part, 2) for part in zip(*held, strict=True))
        difference, q = x - q, q - self._pivot
        turned = q.transpose(1, 2)
        shift, mean, second, crossed = self._sums
        shift += difference.sum(2)
        mean += q.sum(2)
        for total, left in ((second, q), (crossed, difference)):
            _add_product(total, left, turned)
        self._count += q.shape[2]

    def statistics(self, signal: float, noise: float) -> PatchStatistics:
        for total in self._sums:
            total /= self._count
        shift, mean, second, crossed = self._sums
        quantized_mean = mean + self._pivot[:, :, 0].double()
        return PatchStatistics(
            mean=quantized_mean + shift,
            quantized_mean=quantized_mean,
            covariance=second - mean[:, :, None] * mean[:, None, :],
            error=crossed - shift[:, :, None] * mean[:, None, :],
            signal=signal,
            noise=noise,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add [groups, K, n] times [groups, n, K] to ``total``, in place, as that is large for a wide
    layer: blocks of rows, each of them on one thread."""

    def add(start: int) -> None:
        rows = slice(start, start + _ROWS)
        with one_thread():
            total[:, rows] += left[:, rows] @ right

    for _ in in_parallel(add, range(0, left.shape[1], _ROWS)):
        pass


def _patches(
    both: NDArray[np.float32], node: NodeProto, weight: NDArray[Any], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches [groups, K, n] of each of two inputs [2, N, C, ...], at the same positions."""
    if node.op_type == "Gemm":
        x, q = torch.from_numpy(both).transpose(1, 2)[:, None]
        return x, q
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    strides = attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    first, last = find_padding(
        auto_pad,
        both.shape[3:],
        weight.shape[2:],
        strides,
        dilations,
        attributes.get("pads"),
    )
    sides = [first[1], last[1], first[0], last[0]]
    images = F.pad(torch.from_numpy(both).flatten(0, 1), sides)
    columns = F.unfold(images, weight.shape[2:], dilations, stride=strides)  # [2 N, C K, P]
    positions = columns.shape[2]
    if positions > POSITIONS:
        drawn = torch.randperm(positions, generator=generator)[:POSITIONS]
        columns = columns[:, :, drawn.sort().values]
    groups = attributes.get("group", 1)
    pair = columns.reshape(2, both.shape[1], groups, -1, columns.shape[2])  # [2, N, g, K, P]
    x, q = pair.permute(0, 2, 3, 1, 4).flatten(3)
    return x, q
