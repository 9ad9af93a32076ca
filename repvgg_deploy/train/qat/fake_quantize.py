"""Rounding to int8 and back that gradients pass.

The values are those of QuantizeLinear and DequantizeLinear to the last bit: a division in float32,
rounded half to even, clamped, and multiplied by the scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...quantize.qdq import FLOAT


class _FakeQuantize(torch.autograd.Function):
    """LSQ (Esser et al., ICLR 2020, equations 1 to 3 and section 2.2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        ctx.save_for_backward(x, scale)  # a ReLU before it keeps x anyway
        ctx.lowest, ctx.highest = lowest, highest
        return (x / scale).round_().clamp_(lowest, highest).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (grad,) = grads
        x, scale = ctx.saved_tensors
        steps = x / scale
        inside = (steps >= ctx.lowest) & (steps <= ctx.highest)
        by_scale = None
        if ctx.needs_input_grad[1]:
            moved = steps.round().clamp_(ctx.lowest, ctx.highest)
            moved -= torch.where(inside, steps, 0)
            per_scale = x[0].numel()  # of a weight's channel, or of one image
            factor = (per_scale * ctx.highest) ** -0.5
            by_scale = (grad * moved).sum_to_size(scale.shape) * factor
        return grad * inside, by_scale, None, None


def fake_quantize(x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """``x`` [n, ...] in float32 on the steps of ``scale``, which broadcasts against it.

    The gradient passes where ``x`` is not clamped. That of the scale is LSQ's, times
    1 / sqrt(N highest), N being the values of ``x[0]``.
    """
    y: Tensor = _FakeQuantize.apply(x, scale, lowest, highest)  # type: ignore[no-untyped-call]
    return y


class _Representable(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, scale: Tensor, dtype: torch.dtype, least: float) -> Tensor:
        most = torch.finfo(dtype).max
        return scale.double().clamp(least, most).to(dtype).float()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


def representable(scale: Tensor, float_type: str) -> Tensor:
    """The nearest scales that ``float_type`` holds, as quantize.qdq has them; gradients pass."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[float_type]
    least = float(np.finfo(FLOAT[float_type]).smallest_subnormal)
    y: Tensor = _Representable.apply(scale, dtype, least)  # type: ignore[no-untyped-call]
    return y
