"""Which linear maps are one convolution, told from sizes alone.

The rules of :mod:`.linear` without the weights: the ONNX front end plans a whole graph with them
before it reads a single kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Pair = tuple[int, int]
#: Zero padding in pixels: top, left, bottom, right (the order of ONNX's ``pads``).
Pads = tuple[int, int, int, int]


class NotOneConv(ValueError):
    """The result of an operation cannot be written as one convolution."""


@dataclass(frozen=True)
class Geometry:
    """A convolution without its numbers. ``biased``: some entry of the bias may differ from 0."""

    in_channels: int
    out_channels: int
    kernel_size: Pair = (1, 1)
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    biased: bool = False

    @classmethod
    def per_channel(cls, channels: int, biased: bool = False) -> Geometry:
        """``x * factor + offset`` with one factor and offset a channel."""
        return cls(channels, channels, groups=channels, biased=biased)

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution without padding: it mixes channels and nothing else."""
        return self.kernel_size == (1, 1) and not any(self.pads)

    @property
    def scales_channels(self) -> bool:
        """A 1x1 kernel on each channel alone (padded or strided, perhaps)."""
        depthwise = self.groups == self.in_channels == self.out_channels
        return depthwise and self.kernel_size == (1, 1)

    @property
    def weights(self) -> int:
        """Numbers in the kernel."""
        height, width = self.kernel_size
        return self.out_channels * self.in_channels // self.groups * height * width

    @property
    def multiply_adds(self) -> int:
        """Per output pixel, all channels; scaling a channel counts as none, like any Mul or Add."""
        return 0 if self.scales_channels else self.weights

    def then(self, after: Geometry) -> Geometry:
        """This convolution followed by ``after``, where that is one convolution.

        Padding in between is refused unless this one is 1x1 at stride 1: the zeros stand where it
        would have read across the border. They stand in place of a bias too, so with one that is
        refused as well.
        """
        if after.in_channels != self.out_channels:
            raise NotOneConv(f"{self.out_channels} channels feed {after.in_channels}")
        if any(after.pads):
            if self.kernel_size != (1, 1) or self.stride != (1, 1):
                raise NotOneConv("zeros are padded between two spatial convolutions")
            if self.biased:
                raise NotOneConv("a bias in front of a padded convolution leaks at the borders")
        (height, down), (width, across) = (self._along(axis, after) for axis in (0, 1))
        top, left, bottom, right = (a + b for a, b in zip(self.pads, after.pads, strict=True))
        return Geometry(
            self.in_channels,
            after.out_channels,
            (height, width),
            (self.stride[0] * after.stride[0], self.stride[1] * after.stride[1]),
            (top, left, bottom, right),
            (down, across),
            self._groups_with(after),
            self.biased or after.biased,
        )

    def _along(self, axis: int, after: Geometry) -> Pair:
        """Kernel size and dilation of both in a row along one axis."""
        inner, outer = self.kernel_size[axis], after.kernel_size[axis]
        step = after.dilation[axis] * self.stride[axis]  # pixels from one tap of after to the next
        if outer == 1:
            return inner, self.dilation[axis]
        if inner == 1:
            return outer, step
        dilation = math.gcd(self.dilation[axis], step)
        reach = (inner - 1) * self.dilation[axis] + (outer - 1) * step
        return reach // dilation + 1, dilation

    def _groups_with(self, after: Geometry) -> int:
        if after.scales_channels:
            return self.groups
        if self.scales_channels:
            return after.groups
        return math.gcd(self.groups, after.groups)

    def __add__(self, other: Geometry) -> Geometry:
        """The sum of two parallel branches of one input, kernels zero-padded to a common size."""
        for what in ("in_channels", "out_channels", "stride"):
            if getattr(self, what) != getattr(other, what):
                raise NotOneConv(
                    f"branches differ in {what}: {getattr(self, what)} and {getattr(other, what)}"
                )
        dilation = _common_dilation(self, other)
        top, left, bottom, right = (max(a, b) for a, b in zip(self.pads, other.pads, strict=True))
        pads = (top, left, bottom, right)
        size = self._grown(pads, dilation)
        if size != other._grown(pads, dilation):
            raise NotOneConv("padding does not match the kernel sizes: outputs differ in size")
        groups = math.gcd(self.groups, other.groups)
        biased = self.biased or other.biased
        return Geometry(
            self.in_channels, self.out_channels, size, self.stride, pads, dilation, groups, biased
        )

    def margins(self, pads: Pads, dilation: Pair) -> Pads:
        """Rows and columns of zeros to lay around the kernel so that it reads the same pixels at
        a larger padding."""
        margins = []
        for side in range(4):
            margin, rest = divmod(pads[side] - self.pads[side], dilation[side % 2])
            if rest:
                raise NotOneConv("branches read pixels that no common dilated kernel covers")
            margins.append(margin)
        return margins[0], margins[1], margins[2], margins[3]

    def _grown(self, pads: Pads, dilation: Pair) -> Pair:
        top, left, bottom, right = self.margins(pads, dilation)
        return self.kernel_size[0] + top + bottom, self.kernel_size[1] + left + right


def _common_dilation(a: Geometry, b: Geometry) -> Pair:
    """Dilation means nothing along an axis where the kernel has size 1."""
    axes = []
    for axis in (0, 1):
        used = {g.dilation[axis] for g in (a, b) if g.kernel_size[axis] > 1}
        if len(used) > 1:
            raise NotOneConv(f"branches differ in dilation: {a.dilation} and {b.dilation}")
        axes.append(used.pop() if used else 1)
    return axes[0], axes[1]
