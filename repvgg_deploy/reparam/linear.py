"""The algebra that carries the tool: a linear branch is a convolution.

Every branch that re-parameterization folds is a linear map that one convolution can hold
(Ding et al., RepVGG, CVPR 2021, section 3.3; Diverse Branch Block, CVPR 2021, transforms I-VI).
Values are immutable and in float64; an operation whose result is no single convolution raises
:class:`NotOneConv` with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


class NotOneConv(ValueError):
    """The result of an operation cannot be written as one convolution."""


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True, eq=False)
class LinearConv:
    """One convolution: kernel [out, in/groups, kh, kw] and bias [out], float64.

    ``padding`` is zero padding, in pixels, the same on both sides of an axis.
    """

    kernel: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def conv(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
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
        return cls(kernel, offset, _pair(stride), _pair(padding), _pair(dilation), groups)

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
        padding: int | Pair = 0,
        count_include_pad: bool = True,
    ) -> LinearConv:
        """Average pooling, a depthwise convolution (Diverse Branch Block, transform V)."""
        kh, kw = _pair(kernel_size)
        if not count_include_pad and _pair(padding) != (0, 0):
            raise NotOneConv(
                "average pooling that leaves out the padding weighs borders differently"
            )
        kernel = torch.full((channels, 1, kh, kw), 1 / (kh * kw), dtype=torch.float64)
        stride = (kh, kw) if stride is None else stride
        return cls.conv(kernel, stride=stride, padding=padding, groups=channels)

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
    def is_pointwise(self) -> bool:
        """A 1x1 convolution without padding: it mixes channels and nothing else."""
        return self.kernel_size == (1, 1) and self.padding == (0, 0)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H', W'], in the dtype of ``x``."""
        kernel, bias = self.kernel.to(x.dtype), self.bias.to(x.dtype)
        return F.conv2d(x, kernel, bias, self.stride, self.padding, self.dilation, self.groups)

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
        """This convolution followed by ``after``, where that is one convolution.

        One of the two has to be pointwise; in front of a padded convolution a bias leaks at the
        borders (zeros are padded where the bias would stand), so that is refused.
        """
        if after.in_channels != self.out_channels:
            raise NotOneConv(f"{self.out_channels} channels feed {after.in_channels}")
        if not after.is_pointwise:
            if not self.is_pointwise or self.stride != (1, 1):
                raise NotOneConv("neither of the two convolutions is pointwise at stride 1")
            if after.padding != (0, 0) and bool(self.bias.any()):
                raise NotOneConv("a bias in front of a padded convolution leaks at the borders")
        groups = math.gcd(self.groups, after.groups)
        if after.groups == after.in_channels == after.out_channels and after.is_pointwise:
            groups = self.groups  # a per-channel scale keeps the groups
            kernel = self.kernel * after.kernel
            bias = self.bias * after.kernel.flatten() + after.bias
        else:
            first, second = self.regroup(groups), after.regroup(groups)
            left = second.kernel.reshape(groups, -1, *second.kernel.shape[1:])
            right = first.kernel.reshape(groups, -1, *first.kernel.shape[1:])
            kernel = torch.einsum("gomhw,gmiyx->goihwyx", left, right)
            kernel = kernel.flatten(0, 1).reshape(
                after.out_channels, right.shape[2], *_spatial(self, after)
            )
            inner = first.bias.reshape(groups, -1)
            bias = torch.einsum("gomhw,gm->go", left, inner).flatten() + after.bias
        stride = (self.stride[0] * after.stride[0], self.stride[1] * after.stride[1])
        spatial = self if after.is_pointwise else after
        return LinearConv(kernel, bias, stride, spatial.padding, spatial.dilation, groups)

    def __add__(self, other: LinearConv) -> LinearConv:
        """The sum of two parallel branches of one input, kernels zero-padded to a common size."""
        for what in ("in_channels", "out_channels", "stride"):
            if getattr(self, what) != getattr(other, what):
                raise NotOneConv(
                    f"branches differ in {what}: {getattr(self, what)} and {getattr(other, what)}"
                )
        dilation = _common_dilation(self, other)
        groups = math.gcd(self.groups, other.groups)
        a, b = self.regroup(groups), other.regroup(groups)
        padding = (max(a.padding[0], b.padding[0]), max(a.padding[1], b.padding[1]))
        grown = _grow(a, padding, dilation), _grow(b, padding, dilation)
        if grown[0].shape != grown[1].shape:
            raise NotOneConv("padding does not match the kernel sizes: outputs differ in size")
        return LinearConv(grown[0] + grown[1], a.bias + b.bias, a.stride, padding, dilation, groups)


def _spatial(first: LinearConv, second: LinearConv) -> Pair:
    return first.kernel_size if second.is_pointwise else second.kernel_size


def _common_dilation(a: LinearConv, b: LinearConv) -> Pair:
    """Dilation means nothing along an axis where the kernel has size 1."""
    axes = []
    for axis in (0, 1):
        sizes = (a.kernel_size[axis], b.kernel_size[axis])
        if min(sizes) > 1 and a.dilation[axis] != b.dilation[axis]:
            raise NotOneConv(f"branches differ in dilation: {a.dilation} and {b.dilation}")
        axes.append((a if sizes[0] >= sizes[1] else b).dilation[axis])
    return axes[0], axes[1]


def _grow(conv: LinearConv, padding: Pair, dilation: Pair) -> Tensor:
    """The kernel with zeros around it, so that it reads the same pixels at a larger padding."""
    margins = []
    for axis in (1, 0):  # F.pad counts from the last axis
        margin, rest = divmod(padding[axis] - conv.padding[axis], dilation[axis])
        if rest:
            raise NotOneConv("branches read pixels that no common dilated kernel covers")
        margins += [margin, margin]
    return F.pad(conv.kernel, margins) if any(margins) else conv.kernel
