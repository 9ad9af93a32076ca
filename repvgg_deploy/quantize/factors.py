"""The factors of one tensor's channels, chosen by the error that its readers would see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .histograms import ChannelHistograms
from .layers import Layer
from .ranges import LEVELS, mean_squared_errors, mse_thresholds
from .scaling import Array

#: Input scale of an equalized tensor: a power of two, which fp16 and bf16 hold exactly.
STEP = 2.0**-4
#: Room is left for what this many times as many images would bring, by the tails of the channels.
_MORE_IMAGES = 2
_MOST_ROOM = 1.3
#: Values that a tail is read from.
_TAIL = 24
#: How far factors follow the activations (1) or the weights that read them (0); SmoothQuant's
#: migration strength (Xiao et al., ICML 2023, equation 4).
DIRECTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: What compensated rounding leaves of the squared error of rounding weights to the nearest; they
#: need less room then, and activations get more.
LEFT_BY_LEARNING = 0.05
#: A channel that hardly ever fires gets this part of the range that its producer could give it.
_LEAST = 0.02


@dataclass(frozen=True)
class TensorRange:
    """How a tensor is quantized. ``scale`` is its input scale.

    ``headroom`` is the room left beyond the measured threshold, as a factor; ``direction`` as in
    DIRECTIONS and ``spread``, largest over smallest threshold of channels that fire, before, of an
    equalized tensor; None for others.
    """

    scale: float
    headroom: float
    direction: float | None = None
    spread: float | None = None


def kernel_of(values: NDArray[np.float32], layer: Layer) -> Array:
    """[out, in/groups, taps] in float64."""
    wide = (values.T if layer.transposed else values).astype(np.float64)
    return wide.reshape(*wide.shape[:2], -1)


def _grouped(kernel: Array, layer: Layer) -> Array:
    """[groups, out/groups, in/groups, taps]."""
    return kernel.reshape(layer.groups, -1, *kernel.shape[1:])


def reach_of(kernel: Array, layer: Layer, incoming: Array) -> Array:
    """What each output channel [out] comes to where inputs are at their thresholds, at random."""
    squares = (_grouped(kernel, layer) ** 2).sum(3)
    limits = incoming.reshape(layer.groups, 1, -1) ** 2
    reach: Array = np.sqrt((squares * limits).sum(2)).reshape(-1)
    return reach


def headroom_of(histograms: ChannelHistograms, importance: Array) -> float:
    """The rarest images are not among those that were measured, and clipping them costs most."""
    weights = importance * histograms.peaks**2
    index = float((_tail_indices(histograms) * weights).sum())
    index /= max(float(weights.sum()), np.finfo(float).tiny)
    return min(float(_MORE_IMAGES**index), _MOST_ROOM)


def _tail_indices(histograms: ChannelHistograms) -> Array:
    """How heavy the tail of each channel [C] is: 0 for none, 1 / a for a Pareto tail x^-a (Hill,
    Annals of Statistics 1975). n times as many values reach n^(1/a) times as far."""
    counts = histograms.counts.astype(np.float64)
    logarithms = np.log(np.arange(counts.shape[1]) + 0.5)
    from_top = counts[:, ::-1].cumsum(1)[:, ::-1]
    counts[:, 0] = 0
    least = np.maximum((from_top >= _TAIL).sum(1) - 1, 1)  # the bin that holds the smallest of them
    inside = np.arange(counts.shape[1]) >= least[:, None]
    above = np.where(inside, counts, 0)
    total = (above * (logarithms - logarithms[least][:, None])).sum(1)
    indices: Array = total / np.maximum(above.sum(1), 1)
    return indices


class Choice:
    """What one tensor's channels are scaled by. ``reach`` [C] is what its producer could
    give them, ``readers`` the quantized layers behind it with their kernels, and ``weight_error``
    the part of the squared error of nearest rounding that is left of their weights'.

    Rows of the readers count in units of what they come to, so no scaling of the channels behind
    sways the choice.
    """

    def __init__(
        self,
        histograms: ChannelHistograms,
        reach: Array,
        readers: Sequence[tuple[Layer, Array]],
        weight_error: float,
    ) -> None:
        self._histograms, self._weight_error = histograms, weight_error
        measured = mse_thresholds(histograms)
        floor = np.maximum(_LEAST * reach, np.finfo(np.float32).tiny)
        least = np.maximum(measured, floor)
        self._rows = [_in_units(layer, kernel, least) for layer, kernel in readers]
        importance = sum((rows**2).sum((1, 3)).reshape(-1) for rows in self._rows)
        assert isinstance(importance, np.ndarray)
        self._importance: Array = importance
        self._headroom = headroom_of(histograms, self._importance)
        self.thresholds: Array = np.maximum(self._headroom * measured, floor)

    def best(self) -> tuple[Array, TensorRange]:
        """Factors [C], and the range that the tensor has with them."""
        candidates = []
        for direction in DIRECTIONS:
            factors = self._factors(direction)
            largest = (factors * self.thresholds).max()
            scaled = factors * (STEP * LEVELS / largest)
            candidates.append((self._error(scaled), -direction, scaled))
        _, direction, factors = min(candidates, key=lambda candidate: candidate[:2])
        alive = self.thresholds[self._histograms.peaks > 0]
        spread = float(alive.max() / alive.min()) if alive.size else 1.0
        return factors, TensorRange(STEP, self._headroom, -direction, spread)

    def _factors(self, direction: float) -> Array:
        largest = np.max([np.abs(rows).max((1, 3)).reshape(-1) for rows in self._rows], axis=0)
        largest = np.maximum(largest, 1e-6 * largest.max() + np.finfo(float).tiny)
        factors: Array = largest ** (1 - direction) / self.thresholds**direction
        return factors

    def _error(self, factors: Array) -> float:
        """The squared error of rounded activations and weights in the readers' outputs."""
        limits = STEP * LEVELS / factors
        errors = mean_squared_errors(self._histograms, limits)
        total = float((errors * self._importance).sum())
        power = _power(self._histograms) * factors**2
        for rows in self._rows:
            groups, _, per_group, taps = rows.shape
            scaled = np.abs(rows) / factors.reshape(groups, 1, per_group, 1)
            steps = scaled.max((2, 3)) / LEVELS
            gathered = power.reshape(groups, per_group).sum(1) * taps
            total += self._weight_error * float((steps**2 / 12 * gathered[:, None]).sum())
        return total


def _in_units(layer: Layer, kernel: Array, thresholds: Array) -> Array:
    """A reader's kernel with every row in units of its reach."""
    reach = np.maximum(reach_of(kernel, layer, thresholds), np.finfo(float).tiny)
    return _grouped(kernel / reach[:, None, None], layer)


def _power(histograms: ChannelHistograms) -> Array:
    """The mean of x^2 of each channel."""
    counts = histograms.counts.astype(np.float64)
    middles = (np.arange(counts.shape[1]) + 0.5) ** 2
    middles[0] = 0
    widths = histograms.limits / counts.shape[1]
    squares = np.einsum("cb,b->c", counts, middles)  # no product of BLAS, as in ranges.py
    power: Array = squares * widths**2 / np.maximum(counts.sum(1), 1)
    return power
