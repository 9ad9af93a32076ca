"""The algebra that carries the tool: a linear branch is a convolution.

Every branch that re-parameterization folds is a linear map that one convolution can hold
(Ding et al., RepVGG, CVPR 2021, section 3.3; Diverse Branch Block, CVPR 2021, transforms I-VI).
Values are immutable and in float64; an operation whose result is no single convolution raises
:class:`NotOneConv` with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .geometry import Geometry, NotOneConv, Pads, Pair

__all__ = ["LinearConv", "NotOneConv"]

#: Padding as constructors take it: of both axes, of each axis, or of each side.
Padding = int | Pair | Pads


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _pads(padding: Padding) -> Pads:
    if isinstance(padding, int):
        return (padding,) * 4
    return padding if len(padding) == 4 else (*padding, *padding)


@dataclass(frozen=True, eq=False)
class LinearConv:
    """One convolution: kernel [out, in/groups, kh, kw] and bias [out], float64.

    ``pads`` is zero padding in pixels: top, left, bottom, right.
    """

    kernel: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def conv(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> LinearConv:
        """A convolution as it stands; weight [out, in/groups, kh, kw], bias [out] or None."""
        if padding_mode != "zeros":
            raise NotOneConv(f"padding mode {padding_mode!r} is not zero padding")
        if weight.shape[0] % groups:
            raise NotOneConv(
                f"{weight.shape[0]} output channels do not divide into {groups} groups"
            )
        kernel = weight.double()
        offset = kernel.new_zeros(len(kernel)) if bias is None else bias.double()
        return cls(kernel, offset, _pair(stride), _pads(padding), _pair(dilation), groups)

    @classmethod
    def scale(cls, factor: Tensor, offset: Tensor) -> LinearConv:
        """Per-channel ``x * factor + offset``; both [channels]."""
        return cls(factor.double()[:, None, None, None], offset.double(), groups=len(factor))

    @classmethod
    def batch_norm(
        cls, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> LinearConv:
        """Batch norm in inference form; all [channels]. Refuses ``var + eps <= 0``."""
        spread = var.double() + eps
        if bool(spread.isnan().any()):
            raise NotOneConv("batch norm with a running variance that is not a number")
        if not bool((spread > 0).all()):
            raise NotOneConv("batch norm with running variance + eps <= 0")
        factor = gamma.double() / spread.sqrt()
        return cls.scale(factor, beta.double() - mean.double() * factor)

    @classmethod
    def identity(cls, channels: int, groups: int = 1) -> LinearConv:
        """The identity: K[i, i mod (channels/groups)] = 1."""
        if channels % groups:
            raise NotOneConv(f"{channels} channels do not divide into {groups} groups")
        kernel = torch.eye(channels // groups, dtype=torch.float64).repeat(groups, 1)
        return cls(kernel[:, :, None, None], torch.zeros(channels).double(), groups=groups)

    @classmethod
    def average_pool(
        cls,
        channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        count_include_pad: bool = True,
    ) -> LinearConv:
        """Average pooling, a depthwise convolution (Diverse Branch Block, transform V)."""
        kh, kw = _pair(kernel_size)
        if not count_include_pad and any(_pads(padding)):
            raise NotOneConv(
                "average pooling that leaves out the padding weighs borders differently"
            )
        kernel = torch.full((channels, 1, kh, kw), 1 / (kh * kw), dtype=torch.float64)
        stride = (kh, kw) if stride is None else stride
        return cls.conv(kernel, stride=stride, padding=padding, groups=channels)

    @classmethod
    def zero_pad(cls, channels: int, padding: Padding) -> LinearConv:
        """Zeros laid around an image: the identity with padding."""
        return replace(cls.identity(channels, channels), pads=_pads(padding))

    @property
    def out_channels(self) -> int:
        return self.kernel.shape[0]

    @property
    def in_channels(self) -> int:
        return self.kernel.shape[1] * self.groups

    @property
    def kernel_size(self) -> Pair:
        return self.kernel.shape[2], self.kernel.shape[3]

    @property
    def padding(self) -> Pair:
        """Zero padding of height and width; ValueError where the two sides of an axis differ."""
        top, left, bottom, right = self.pads
        if (top, left) != (bottom, right):
            raise ValueError(f"the padding {self.pads} is not the same on both sides")
        return top, left

    @property
    def geometry(self) -> Geometry:
        return Geometry(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.pads,
            self.dilation,
            self.groups,
            bool(self.bias.any()),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H', W'], in the dtype of ``x``."""
        kernel, bias = self.kernel.to(x.dtype), self.bias.to(x.dtype)
        top, left, bottom, right = self.pads
        if (top, left) == (bottom, right):
            return F.conv2d(x, kernel, bias, self.stride, (top, left), self.dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, kernel, bias, self.stride, 0, self.dilation, self.groups)

    def regroup(self, groups: int) -> LinearConv:
        """The same map written with fewer groups: zeros fill the connections that were absent."""
        if self.groups % groups:
            raise NotOneConv(f"{self.groups} groups cannot be written as {groups}")
        if groups == self.groups:
            return self
        merged = self.groups // groups
        rows, columns = self.out_channels // self.groups, self.kernel.shape[1]
        blocks = self.kernel.reshape(groups, merged, rows, columns, *self.kernel_size)
        wide = self.kernel.new_zeros(groups, merged, rows, merged, columns, *self.kernel_size)
        for i in range(merged):
            wide[:, i, :, i] = blocks[:, i]
        kernel = wide.reshape(self.out_channels, merged * columns, *self.kernel_size)
        return replace(self, kernel=kernel, groups=groups)

    def then(self, after: LinearConv) -> LinearConv:
        """This convolution followed by ``after``; NotOneConv as :meth:`Geometry.then` says."""
        ours, theirs = self.geometry, after.geometry
        result = ours.then(theirs)
        if theirs.scales_channels:
            kernel = self.kernel * after.kernel
            bias = self.bias * after.kernel.flatten() + after.bias
        elif ours.scales_channels:
            kernel, bias = after._behind_scale(self)
        else:
            kernel, bias = self.regroup(result.groups)._compose(
                after.regroup(result.groups), result
            )
        return _with(result, kernel, bias)

    def _behind_scale(self, scale: LinearConv) -> tuple[Tensor, Tensor]:
        """Kernel and bias of this convolution after a per-channel scale, its groups kept."""
        inner = scale.bias.reshape(self.groups, 1, -1, 1, 1)
        factor = scale.kernel.reshape(self.groups, 1, -1, 1, 1)
        blocks = self.kernel.reshape(self.groups, -1, *self.kernel.shape[1:])
        bias = (blocks * inner).sum((2, 3, 4)).flatten() + self.bias
        return (blocks * factor).flatten(0, 1), bias

    def _compose(self, after: LinearConv, shape: Geometry) -> tuple[Tensor, Tensor]:
        """Kernel and bias, groups being equal: each tap of ``after`` lays down our kernel."""
        left = after.kernel.reshape(self.groups, -1, *after.kernel.shape[1:])
        right = self.kernel.reshape(self.groups, -1, *self.kernel.shape[1:])
        inner = self.bias.reshape(self.groups, -1)
        outputs, inputs = left.shape[1], right.shape[2]
        kernel = left.new_zeros(self.groups, outputs, inputs, *shape.kernel_size)
        for row in range(left.shape[3]):
            for column in range(left.shape[4]):
                places = (self._places(0, row, after, shape), self._places(1, column, after, shape))
                tap = torch.einsum("gom,gmiyx->goiyx", left[..., row, column], right)
                kernel[:, :, :, places[0], places[1]] += tap
        bias = torch.einsum("gomhw,gm->go", left, inner).flatten() + after.bias
        return kernel.flatten(0, 1), bias

    def _places(self, axis: int, tap: int, after: LinearConv, shape: Geometry) -> slice:
        """Where a tap of ``after`` puts our kernel along an axis of the kernel of both."""
        size = self.kernel_size[axis]
        start = tap * after.dilation[axis] * self.stride[axis] // shape.dilation[axis]
        step = self.dilation[axis] // shape.dilation[axis] if size > 1 else 1
        return slice(start, start + (size - 1) * step + 1, step)

    def __add__(self, other: LinearConv) -> LinearConv:
        """The sum of two parallel branches; NotOneConv as :meth:`Geometry.__add__` says."""
        result = self.geometry + other.geometry
        kernel, small = self._grow(result).clone(), other.regroup(result.groups).kernel
        top, left, _, _ = other.geometry.margins(result.pads, result.dilation)
        height, width = small.shape[2:]  # added where it lies: padding it costs as much again
        kernel[:, :, top : top + height, left : left + width] += small
        return _with(result, kernel, self.bias + other.bias)

    def _grow(self, target: Geometry) -> Tensor:
        """The kernel in the groups of ``target``, zeros around it up to its size."""
        kernel = self.regroup(target.groups).kernel
        top, left, bottom, right = self.geometry.margins(target.pads, target.dilation)
        margins = (left, right, top, bottom)  # F.pad counts from the last axis
        return F.pad(kernel, margins) if any(margins) else kernel


def _with(shape: Geometry, kernel: Tensor, bias: Tensor) -> LinearConv:
    return LinearConv(kernel, bias, shape.stride, shape.pads, shape.dilation, shape.groups)
