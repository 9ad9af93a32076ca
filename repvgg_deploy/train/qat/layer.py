"""A convolution or linear layer that is trained in int8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...quantize.layers import QuantizedLayer
from ...quantize.ranges import LEVELS
from .fake_quantize import fake_quantize, representable
from .settings import QatSettings


class QatLayer(nn.Module):
    """Weights in float, seen in int8 steps of ``weight_scale`` [out]; the input in steps of
    ``input_scale``.

    With ``bn`` the form of Krishnamoorthi (arXiv 1806.08342, section 3.2.2; torch's qat ConvBn):
    the kernel is rounded with the batch norm's running statistics folded in, and training sees
    what comes out in the statistics of the batch. In eval mode the layer is the folded one, which
    is what is exported.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, start: QuantizedLayer, settings: QatSettings
    ) -> None:
        super().__init__()
        self._run = _operation(layer)
        self._float_type = settings.float_type
        integers, scales = torch.tensor(start.weight), torch.tensor(start.weight_scales)
        bias = layer.bias if start.bias is None else torch.tensor(start.bias)
        self.weight = nn.Parameter(_inside(layer.weight.detach().clone(), integers, scales))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        learned = settings.scales == "learned"
        self.weight_scale = nn.Parameter(scales, learned)
        self.input_scale = nn.Parameter(torch.tensor(start.input_scale), learned)
        self.bn: nn.BatchNorm2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        scale, weight, bias = self.rounded()
        x = fake_quantize(x.float(), scale, -LEVELS - 1, LEVELS)
        if self.bn is None or not self.training:
            return self._run(x, weight, bias)
        y = self._run(x, weight, None) / self._ratio().reshape(-1, 1, 1)
        normed: Tensor = self.bn(y)
        return normed if self.bias is None else normed + self.bias.reshape(-1, 1, 1)

    def rounded(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input scale, kernel and bias that eval mode computes with."""
        weight, bias = self.folded()
        weight = fake_quantize(weight, self._weight_scales(weight), -LEVELS, LEVELS)
        return representable(self.input_scale, self._float_type), weight, bias

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias in float, with the batch norm folded in."""
        if self.bn is None:
            return self.weight, self.bias
        mean = self.bn.running_mean
        assert mean is not None
        ratio = self._ratio()
        moved = self.bn.bias - mean * ratio
        bias = moved if self.bias is None else self.bias + moved
        return self.weight * ratio.reshape(-1, 1, 1, 1), bias

    def insert_norm(self, mean: Tensor, variance: Tensor) -> None:
        """A batch norm behind the convolution, [out] each, that changes nothing: what it subtracts
        it adds, and what it divides by it multiplies with.

        The convolution's own bias comes after it and is trained no more, for the batch norm's is.
        """
        self.bn = bn = nn.BatchNorm2d(len(mean)).to(mean.device)
        assert bn.running_mean is not None and bn.running_var is not None
        with torch.no_grad():
            bn.running_mean.copy_(mean)
            bn.running_var.copy_(variance)
            bn.bias.copy_(bn.running_mean)
            bn.weight.copy_(torch.sqrt(bn.running_var + bn.eps))
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def _ratio(self) -> Tensor:
        """gamma / sigma of the running statistics, [out]."""
        assert self.bn is not None and self.bn.running_var is not None
        return self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)

    def _weight_scales(self, weight: Tensor) -> Tensor:
        scales = representable(self.weight_scale, self._float_type)
        return scales.reshape(-1, *[1] * (weight.ndim - 1))

    @torch.no_grad()
    def quantized(self, name: str) -> QuantizedLayer:
        """The integers, scales and bias that eval mode computes with."""
        weight, bias = self.folded()
        integers = _integers(weight, self._weight_scales(weight))
        scale = representable(self.input_scale, self._float_type)
        return QuantizedLayer(
            name,
            float(scale),
            integers.cpu().numpy().astype(np.int8),
            representable(self.weight_scale, self._float_type).cpu().numpy(),
            None if bias is None else bias.cpu().numpy(),
        )


def _integers(weight: Tensor, scales: Tensor) -> Tensor:
    return (weight / scales).round().clamp(-LEVELS, LEVELS)


def _inside(weight: Tensor, integers: Tensor, scales: Tensor) -> Tensor:
    """``weight``, but on the step of its integer where it would be rounded to another one, as of
    learned rounding: training starts from the very integers that were chosen."""
    scales = scales.reshape(-1, *[1] * (weight.ndim - 1))
    return torch.where(_integers(weight, scales) == integers, weight, integers * scales)


def _operation(
    layer: nn.Conv2d | nn.Linear,
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    if isinstance(layer, nn.Linear):
        return functional.linear
    return _Convolution(layer)


class _Convolution:
    """What a convolution does, without its weights."""

    def __init__(self, layer: nn.Conv2d) -> None:
        assert not isinstance(layer.padding, str)
        self._geometry = layer.stride, layer.padding, layer.dilation, layer.groups

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, *self._geometry)
