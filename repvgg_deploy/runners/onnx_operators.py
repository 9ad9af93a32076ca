"""Operators that ONNX's reference evaluator computes wrongly, not at all, or pixel by pixel.

Each class serves every opset from 7: its node says which version it is. What the others compute is
compared with ONNX Runtime in tests/test_onnx_operators.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as OnnxResize
from torch.nn import functional as F

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
#: Larger than any integer a float is quantized to, and an int64 still holds it.
_BEYOND = 2.0**40

Array = NDArray[Any]


class _Operator(OpRun):
    """Takes the defaults of its attributes from the schema of the model's own opset.

    ONNX's base class takes them from the newest one, where Softmax has another axis.
    """

    op_domain = ""

    def __init__(
        self, node: NodeProto, run_params: dict[str, Any], schema: onnx.defs.OpSchema | None = None
    ) -> None:
        self.opset: int = run_params["opsets"][node.domain]
        own = schema or onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        super().__init__(node, run_params, own)


class Conv(_Operator):
    """By torch: the evaluator's own walks the pixels in Python."""

    def _run(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        auto_pad: str | None = None,
        dilations: list[int] | None = None,
        group: int | None = None,
        kernel_shape: list[int] | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[Array]:
        axes = weight.ndim - 2
        stride, dilation = strides or [1] * axes, dilations or [1] * axes
        sizes = x.shape[2:], weight.shape[2:]
        first, last = find_padding(auto_pad or "NOTSET", *sizes, stride, dilation, pads)
        sides = [side for axis in reversed(range(axes)) for side in (first[axis], last[axis])]
        padded = F.pad(torch.tensor(x), sides)
        kernel = torch.tensor(weight).to(padded.dtype)
        offset = None if bias is None else torch.tensor(bias).to(padded.dtype)
        convolve = _CONVOLUTIONS[axes]
        return (convolve(padded, kernel, offset, stride, 0, dilation, group or 1).numpy(),)


def find_padding(
    auto_pad: str,
    image: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial axis of a Conv with these attributes.

    ``image`` and ``kernel`` are sizes along these axes.
    """
    axes = len(kernel)
    if auto_pad in ("NOTSET", "VALID"):
        given = pads if pads and auto_pad == "NOTSET" else [0] * 2 * axes
        return list(given[:axes]), list(given[axes:])
    first, last = [], []
    for axis in range(axes):
        size, reach = image[axis], dilation[axis] * (kernel[axis] - 1) + 1
        steps = -(-size // stride[axis])
        total = max((steps - 1) * stride[axis] + reach - size, 0)
        small, large = total // 2, total - total // 2
        first.append(small if auto_pad == "SAME_UPPER" else large)
        last.append(large if auto_pad == "SAME_UPPER" else small)
    return first, last


class ConvTranspose(_Operator):
    """By torch; the evaluator's own takes one output channel a group only."""

    def _run(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        auto_pad: str = "NOTSET",
        dilations: list[int] | None = None,
        group: int = 1,
        kernel_shape: list[int] | None = None,
        output_padding: list[int] | None = None,
        output_shape: list[int] | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[Array]:
        axes = weight.ndim - 2
        ones = [1] * axes
        stride, dilation = strides or ones, dilations or ones
        kernel = torch.tensor(weight).to(torch.float64)
        spread = _TRANSPOSED[axes](
            torch.tensor(x), kernel, None, stride, 0, 0, group, dilation
        ).numpy()
        whole = np.add(spread.shape[2:], output_padding or [0] * axes)
        if auto_pad.startswith("SAME") and not output_shape:
            output_shape = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
        if output_shape:
            want = np.array(output_shape[-axes:])
            cut = np.maximum(whole - want, 0)
            first = cut // 2 if auto_pad == "SAME_UPPER" else cut - cut // 2
        else:
            given = pads if pads and auto_pad == "NOTSET" else [0] * 2 * axes
            first = np.array(given[:axes])
            want = whole - first - given[axes:]
        beyond = np.maximum(first + want - spread.shape[2:], 0)
        padded = np.pad(spread, [(0, 0), (0, 0), *((0, int(size)) for size in beyond)])
        parts = (slice(start, start + size) for start, size in zip(first, want, strict=True))
        inside: tuple[Any, ...] = (..., *parts)
        y = padded[inside]
        return (y if bias is None else y + bias.reshape(-1, *ones),)


class LRN(_Operator):
    """The evaluator's own takes the number of images for that of channels."""

    def _run(
        self, x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
    ) -> tuple[Array]:
        before = (size - 1) // 2
        sides = [(0, 0)] * x.ndim
        sides[1] = (before, size - 1 - before)
        squares = np.pad(x**2, sides)
        total = sum(squares[:, i : i + x.shape[1]] for i in range(size))
        return (x / (bias + alpha / size * total) ** beta,)


class Upsample(_Operator):
    """The evaluator's own takes whole factors of the newer form only."""

    def _run(self, x: Array, scales: Array | list[float], mode: str = "nearest") -> tuple[Array]:
        return _resize_asymmetric(x, np.asarray(scales, np.float64), mode)


class Resize(OnnxResize):
    """At opset 10 it has other inputs, which the evaluator does not know."""

    def _run(self, X: Array, *arguments: Any, **attributes: Any) -> tuple[Array]:
        if self.run_params["opsets"][self.onnx_node.domain] < 11:
            (scales,) = arguments
            return _resize_asymmetric(X, scales, attributes["mode"])
        (resized,) = super()._run(X, *arguments, **attributes)
        return (resized,)


def _resize_asymmetric(x: Array, scales: Array, mode: str) -> tuple[Array]:
    """As it was before opset 11 gave Resize other ways."""
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"],
        mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    parameters = {"log": lambda *_: None, "opsets": {"": 19}, "new_ops": None}
    (resized,) = OnnxResize(node, parameters).run(x, None, scales)  # type: ignore[no-untyped-call]
    return (resized,)


class BatchNormalization(_Operator):
    """The evaluator's own mixes in batch statistics below opset 14, also in inference."""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        mean: Array,
        variance: Array,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        spatial: int = 1,
        training_mode: int = 0,
    ) -> tuple[Array, ...]:
        outputs = [name for name in self.onnx_node.output if name]
        if self.opset < 14 and len(outputs) > 1:
            raise ValueError(
                f"the BatchNormalization {self.onnx_node.name or outputs[0]!r} is in training mode "
                "(it has several outputs); export the model in eval mode"
            )
        running: tuple[Array, ...] = ()
        if training_mode:
            batch = tuple(axis for axis in range(x.ndim) if axis != 1)
            own = x.mean(batch), x.var(batch)
            pairs = zip((mean, variance), own, strict=True)
            running = tuple(old * momentum + new * (1 - momentum) for old, new in pairs)
            mean, variance = own
        # Without `spatial` (opsets 7 and 8) each value of an image has statistics of its own.
        shape = (1, *scale.shape, *[1] * (x.ndim - 1 - scale.ndim))
        factor = scale / np.sqrt(variance + epsilon)
        y = (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)
        return y, *running[: len(outputs) - 1]


class Softmax(_Operator):
    """Below opset 13 over all axes from ``axis`` on; the evaluator knows the newer form only."""

    def _run(self, x: Array, axis: int = -1) -> tuple[Array]:
        values = self._matrix(x, axis)
        powers = np.exp(values - values.max(-1, keepdims=True))
        return (self._back(powers / powers.sum(-1, keepdims=True), x, axis),)

    def _matrix(self, x: Array, axis: int) -> Array:
        """The axes to sum over as the last one."""
        if self.opset >= 13:
            return np.moveaxis(x, axis, -1)
        axis %= max(x.ndim, 1)
        return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))

    def _back(self, values: Array, x: Array, axis: int) -> Array:
        return np.moveaxis(values, -1, axis) if self.opset >= 13 else values.reshape(x.shape)


class LogSoftmax(Softmax):
    def _run(self, x: Array, axis: int = -1) -> tuple[Array]:
        values = self._matrix(x, axis)
        values = values - values.max(-1, keepdims=True)
        logarithms = values - np.log(np.exp(values).sum(-1, keepdims=True))
        return (self._back(logarithms, x, axis),)


class DequantizeLinear(_Operator):
    """In float64, where the evaluator's own takes float32, and has nothing below opset 19."""

    def _run(
        self,
        x: Array,
        scale: Array,
        zero_point: Array | None = None,
        axis: int = 1,
        block_size: int = 0,
        output_dtype: int = 0,
    ) -> tuple[Array]:
        zero = np.zeros(1) if zero_point is None else zero_point.astype(np.float64)
        offset = x.astype(np.float64) - _spread(zero, x, axis, block_size)
        return (offset * _spread(scale, x, axis, block_size),)


class QuantizeLinear(_Operator):
    """Saturates what the evaluator's own wraps around: beyond 2^31 times the scale."""

    def _run(
        self,
        x: Array,
        scale: Array,
        zero_point: Array | None = None,
        axis: int = 1,
        saturate: int = 1,
        block_size: int = 0,
        output_dtype: int = 0,
        precision: int = 0,
    ) -> tuple[Array]:
        values = x / _spread(scale, x, axis, block_size)
        if zero_point is None:
            zero_point = np.zeros(1, _type(output_dtype or TensorProto.UINT8))
        kind = zero_point.dtype
        if _is_float(kind):  # float8 and smaller, whose zero point is 0
            rounded = numpy_helper.saturate_cast(values, kind) if saturate else values.astype(kind)
            return (rounded,)
        steps = np.rint(np.clip(values, -_BEYOND, _BEYOND)).astype(np.int64)
        steps = steps + _spread(zero_point.astype(np.int64), x, axis, block_size)
        limits = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
        return (np.clip(steps, int(limits.min), int(limits.max)).astype(kind),)


def _type(element: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(element))


def _is_float(kind: np.dtype[Any]) -> bool:
    try:
        ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return True


def _spread(values: Array, x: Array, axis: int, block_size: int) -> Array:
    """Scales or zero points in a shape that broadcasts to ``x``: one, one a slice, one a block."""
    if values.size == 1:
        return values.reshape(())
    if block_size:
        whole = np.repeat(values, block_size, axis)
        return whole.take(np.arange(x.shape[axis]), axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


OPERATORS = [
    Conv, ConvTranspose, BatchNormalization, LRN, Upsample, Resize, Softmax, LogSoftmax,
    DequantizeLinear, QuantizeLinear,
]  # fmt: skip
