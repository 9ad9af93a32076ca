"""The precision of an engine, proved from the types of its network before it is built.

In a strongly typed network the types are those of the ONNX model, and the builder may not change
them (TensorRT developer guide, "Strong Typing vs Weak Typing").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from . import api
from .module import TensorRT
from .options import QUANTIZED

#: A layer of int8 and fp8 networks that is not quantized is of these.
_FLOATS = {"fp32", "fp16", "bf16"}


@dataclass(frozen=True)
class LayerTypes:
    """What a convolution or matrix product reads, weighs with and writes, as fp16, int8, ...

    Behind a DequantizeLinear the type is the quantized one: that pair is what makes the builder
    run the layer so.
    """

    name: str
    kind: str
    input: str
    weight: str
    output: str


def type_names(trt: TensorRT) -> dict[api.Member, str]:
    """TensorRT's data types by the short names that this tool uses."""
    types = trt.DataType
    return {
        types.FLOAT: "fp32",
        types.HALF: "fp16",
        types.BF16: "bf16",
        types.FP8: "fp8",
        types.INT8: "int8",
        types.INT32: "int32",
        types.INT64: "int64",
        types.BOOL: "bool",
        types.UINT8: "uint8",
    }


def layer_table(trt: TensorRT, network: api.INetworkDefinition) -> list[LayerTypes]:
    """Every convolution, deconvolution and matrix product of a parsed network."""
    kinds = {
        trt.LayerType.CONVOLUTION: "convolution",
        trt.LayerType.DECONVOLUTION: "deconvolution",
        trt.LayerType.MATRIX_MULTIPLY: "matrix product",
        trt.LayerType.EINSUM: "matrix product",
    }
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = _Types(trt, layers)
    return [
        LayerTypes(
            name=layer.name,
            kind=kinds[layer.type],
            input=types.read(layer, 0),
            weight=types.weight(layer),
            output=types.written(layer),
        )
        for layer in layers
        if layer.type in kinds and not (layer.type == trt.LayerType.EINSUM and layer.num_inputs < 2)
    ]


def mismatches(layers: list[LayerTypes], precision: str) -> list[str]:
    """Why a network is not of that precision, a sentence a layer; empty where it is.

    fp32, fp16, bf16: every layer reads, weighs and writes in it. int8, fp8: a layer is quantized
    on both sides or on none, and at least one is; the others are left in a float type on purpose.
    """
    if not layers:
        return ["no convolution and no matrix product is in it whose types could be read"]
    if precision not in QUANTIZED:
        wrong = [row for row in layers if {row.input, row.weight, row.output} != {precision}]
        return [
            f"{row.name} reads {row.input}, weighs with {row.weight} and writes {row.output}"
            for row in wrong
        ]
    if not any(precision in (row.input, row.weight) for row in layers):
        return [f"none of the {len(layers)} weighted layers reads or weighs with {precision}"]
    return [
        f"{row.name} reads {row.input} and weighs with {row.weight}"
        for row in layers
        if not row.input == row.weight == precision and not {row.input, row.weight} <= _FLOATS
    ]


class _Types:
    """Looks types up in a network whose layers are known."""

    def __init__(self, trt: TensorRT, layers: list[api.ILayer]) -> None:
        self._trt, self._names = trt, type_names(trt)
        kinds = trt.LayerType
        self._same_values = (kinds.SHUFFLE, kinds.SQUEEZE, kinds.UNSQUEEZE, kinds.IDENTITY)
        self._maker: dict[str, api.ILayer] = {}
        for layer in layers:
            for index in range(layer.num_outputs):
                if (tensor := layer.get_output(index)) is not None:
                    self._maker[tensor.name] = layer

    def read(self, layer: api.ILayer, index: int) -> str:
        """The type that an input is stored in: before its DequantizeLinear, if it has one."""
        tensor = layer.get_input(index)
        assert tensor is not None  # a layer of the kinds above has its inputs
        maker = self._maker.get(tensor.name)
        while maker is not None and maker.type in self._same_values:
            tensor = maker.get_input(0) or tensor
            maker = self._maker.get(tensor.name)
        if maker is not None and maker.type == self._trt.LayerType.DEQUANTIZE:
            tensor = maker.get_input(0) or tensor
        return self._name(tensor.dtype)

    def weight(self, layer: api.ILayer) -> str:
        if layer.num_inputs > 1:
            return self.read(layer, 1)
        convolution = layer.type == self._trt.LayerType.CONVOLUTION
        kind = self._trt.IConvolutionLayer if convolution else self._trt.IDeconvolutionLayer
        layer.__class__ = kind
        return self._name(cast(api.IConvolutionLayer, layer).kernel.dtype)

    def written(self, layer: api.ILayer) -> str:
        tensor = layer.get_output(0)
        assert tensor is not None
        return self._name(tensor.dtype)

    def _name(self, dtype: object) -> str:
        """Of a TensorRT type, or of numpy's in which a kernel comes."""
        numpy_names = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
        words = str(dtype).lower().removeprefix("datatype.")  # such as int4
        return self._names.get(dtype) or numpy_names.get(words, words)
