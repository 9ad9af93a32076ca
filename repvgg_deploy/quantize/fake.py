"""The int8 network in torch: integers and scales in a file, and float layers that compute as they
do (fake quantization)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from ..checkpoint.check import check_values
from ..checkpoint.load import load_checkpoint
from ..errors import UserError
from ..models.build import build, check_layout, foreign_keys
from ..models.infer import infer
from ..models.network import RepVGG
from ..models.spec import OFFICIAL_EPS, PLAIN_STRIDES, Strides
from .layers import QuantizedLayer, find_layers, layer_key

_LOWEST, _HIGHEST = -128, 127
#: What a quantized layer has beside its ``weight`` and ``bias``.
_SCALES = ("weight_scale", "input_scale")


@dataclass(frozen=True)
class Int8State:
    """The tensors of an int8 network. ``scales`` maps a layer to its input scale (fp32).

    ``tensors`` holds for each layer ``weight`` in int8, ``weight_scale`` [out] and ``bias`` [out]
    in fp32, and every other tensor of the network in fp32, under its name. Those may be infinite,
    as the bound of a Clip may.
    """

    tensors: Mapping[str, Tensor]
    scales: Mapping[str, float]

    def weight(self, layer: str, dtype: torch.dtype) -> Tensor:
        """What DequantizeLinear makes of a layer's integers, in ``dtype``."""
        integers, scales = self.tensors[f"{layer}.weight"], self.tensors[f"{layer}.weight_scale"]
        wide = torch.promote_types(dtype, torch.float32)
        shape = (-1, *[1] * (integers.ndim - 1))
        return (integers.to(wide) * scales.to(wide).reshape(shape)).to(dtype)


def int8_tensors(model: ModelProto, layers: Sequence[QuantizedLayer]) -> dict[str, Tensor]:
    """The tensors of an int8 network, by name, as its safetensors file holds them.

    ``model`` is the fp32 network, prepared and conditioned, that ``layers`` were made from. Empty
    tensors are left out: exporters write them for inputs that an operator does without (the roi of
    a Resize).
    """
    chosen = {layer.name for layer in layers}
    found = [layer for layer in find_layers(model, linear=True) if layer.name in chosen]
    replaced = {name for layer in found for name in (layer.weight, layer.bias)}
    tensors = {
        t.name: torch.tensor(numpy_helper.to_array(t))
        for t in model.graph.initializer
        if t.data_type == TensorProto.FLOAT and t.name not in replaced and 0 not in t.dims
    }
    for layer in layers:
        key = layer_key(layer.name)
        tensors[f"{key}.weight"] = torch.tensor(layer.weight)
        tensors[f"{key}.weight_scale"] = torch.tensor(layer.weight_scales)
        tensors[f"{key}.input_scale"] = torch.tensor(layer.input_scale, dtype=torch.float32)
        if layer.bias is not None:
            tensors[f"{key}.bias"] = torch.tensor(layer.bias)
    return tensors


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file; the same tensors give the same bytes."""
    return bytes(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))


def read_int8(path: Path) -> Int8State:
    """Read and check the file that :func:`to_bytes` made.

    Raises:
        UserError: no such file, damaged, or not the tensors of an int8 network.
    """
    tensors = load_checkpoint(path).state
    ends = tuple(f".{name}" for name in _SCALES)
    layers = sorted({key.rpartition(".")[0] for key in tensors if key.endswith(ends)})
    if not layers:
        raise UserError(f"{path}: holds no quantized layer; run repvgg-deploy quantize again.")
    quantized = (f"{name}.{part}" for name in layers for part in (*_SCALES, "bias"))
    check_values(tensors, [key for key in quantized if key in tensors], path)
    for layer in layers:
        if wrong := _wrong(tensors, layer):
            raise UserError(f"{path}: {layer}: {wrong}; run repvgg-deploy quantize again.")
    return Int8State(tensors, {name: float(tensors[f"{name}.input_scale"]) for name in layers})


def _wrong(tensors: Mapping[str, Tensor], layer: str) -> str:
    """What is wrong with a layer's tensors; empty where nothing is."""
    weight, scales, scale = (tensors.get(f"{layer}.{name}") for name in ("weight", *_SCALES))
    if weight is None or weight.dtype != torch.int8 or weight.ndim not in (2, 4):
        return "has no weight in int8"
    for name, values, shape in (
        ("weight_scale", scales, (len(weight),)),
        ("input_scale", scale, ()),
    ):
        if values is None or values.dtype != torch.float32 or tuple(values.shape) != shape:
            return f"its {name} is not fp32 of shape {list(shape)}"
        if not bool((values > 0).all()):
            return f"its {name} is not positive"
    return ""


def dequantized(
    state: Int8State, dtype: torch.dtype = torch.float32, strides: Strides = PLAIN_STRIDES
) -> RepVGG:
    """The fused network with the weights that the integers stand for; activations are in float.

    ``strides`` are those of the network that was quantized, which no tensor shows.

    Raises:
        UserError: the tensors are not those of a fused RepVGG.
    """
    scales = {f"{name}.{end}" for name in state.scales for end in _SCALES}
    tensors = {key: value for key, value in state.tensors.items() if key not in scales}
    tensors |= {f"{name}.weight": state.weight(name, dtype) for name in state.scales}
    spec, form = infer(tensors, OFFICIAL_EPS, strides)
    if foreign := foreign_keys(tensors, spec, form):
        raise UserError(f"{foreign[0]!r} belongs to no part of a plain {spec.family} network.")
    check_layout(tensors, spec, form)
    return build(tensors, spec, form, dtype)


def fake_quantized(
    state: Int8State, dtype: torch.dtype = torch.float32, strides: Strides = PLAIN_STRIDES
) -> RepVGG:
    """The same, and every quantized layer sees its input in steps, as in int8.

    It computes on any device, in ``dtype``. UserError as :func:`dequantized`.
    """
    network = dequantized(state, dtype, strides)
    for name, scale in state.scales.items():
        parent, _, leaf = name.rpartition(".")
        layer = FakeQuantized(network.get_submodule(name), scale)
        setattr(network.get_submodule(parent), leaf, layer)
    return network


class FakeQuantized(nn.Module):
    """A layer that sees its input in steps of ``scale``."""

    def __init__(self, layer: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(dequantize(quantize(x, self.scale), self.scale, x.dtype))
        return y


def quantize(x: Tensor, scale: float) -> Tensor:
    """The integers of QuantizeLinear, in int8: rounded half to even, and clamped.

    The division is one in float32, as ONNX Runtime's, or in float64 where ``x`` is so.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    steps = torch.round(wide / torch.tensor(scale, dtype=wide.dtype, device=x.device))
    return torch.clamp(steps, _LOWEST, _HIGHEST).to(torch.int8)


def dequantize(integers: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """What DequantizeLinear makes of integers."""
    return integers.to(dtype) * scale
