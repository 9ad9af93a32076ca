"""The nodes of an ONNX graph put into layers, with the work and the traffic of each.

A layer is a node and the pointwise ones that can ride with it: these work on numbers that are at
hand anyway, so a runtime need not write anything in between. A layer reads each tensor it needs
once and writes what others need once, in the precision that is stored (int8 between a Q and a DQ
node). So no cache is counted on, and no merging of two layers either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from .shapes import Tensor, item_bytes

PRECISIONS: dict[int, str] = {
    TensorProto.DOUBLE: "fp64", TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16", TensorProto.INT8: "int8", TensorProto.UINT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8", TensorProto.FLOAT8E5M2: "fp8",
}  # fmt: skip
#: The same numbers by another name.
_VIEWS = {"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DequantizeLinear"}
_STORED_ANEW = {"Cast", "QuantizeLinear"}
_POINTWISE = {
    "Abs", "Add", "BatchNormalization", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu",
    "Sigmoid", "Softplus", "Sqrt", "Sub", "Sum", "Tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """``precision`` is of its arithmetic; ``winograd`` the multiplications by the paper's count.

    ``bytes`` are what it reads and writes at least.
    """

    name: str
    operator: str
    precision: str
    macs: int
    winograd: int
    bytes: int


@dataclass(frozen=True)
class _Stored:
    """What a tensor is in memory; several names may mean one. ``layer`` None: given from outside,
    which a layer may also have changed on the way (``element`` is as it is used)."""

    root: str
    size: int
    bytes: int
    element: int
    layer: int | None
    constant: bool


@dataclass
class _Open:
    """A layer that may still take pointwise nodes in."""

    node: NodeProto
    precision: str
    macs: int
    winograd: int
    traffic: dict[str, int] = field(default_factory=dict)


class Walk:
    """The nodes of a graph, in order, put into layers."""

    def __init__(self, model: ModelProto, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.stored = tensors, dict[str, _Stored]()
        self._layers: list[_Open] = []
        for value in model.graph.input:
            self._store(value.name, None, constant=False)
        for tensor in model.graph.initializer:
            self._store(tensor.name, None, constant=True)

    def layers(self, outputs: Sequence[str]) -> list[Layer]:
        """All that were put together, once every node is added; ``outputs`` are the graph's."""
        for name in outputs:
            self._write(self.stored[name])
        return [
            Layer(
                layer.node.name or layer.node.output[0],
                layer.node.op_type,
                layer.precision,
                layer.macs,
                layer.winograd,
                sum(layer.traffic.values()),
            )
            for layer in self._layers
        ]

    def _store(self, name: str, layer: int | None, constant: bool) -> None:
        tensor = self.tensors[name]
        self.stored[name] = _Stored(
            name, tensor.size, tensor.bytes, tensor.element, layer, constant
        )

    def add(self, node: NodeProto) -> None:
        inputs = [self.stored[name] for name in node.input if name]
        moving = {one.root: one for one in inputs if not one.constant}
        outputs = [name for name in node.output if name]
        size = self.tensors[outputs[0]].size
        if node.op_type in _STORED_ANEW:
            self.stored[outputs[0]] = self._stored_anew(outputs[0], inputs[0])
        elif node.op_type in _VIEWS:
            self.stored[outputs[0]] = inputs[0]
        elif not moving or node.op_type == "Shape":  # worked out before the first run
            for name in outputs:
                self._store(name, None, constant=True)
        elif node.op_type in _POINTWISE and len(moving) == 1 and _size(moving) == size:
            self.stored[outputs[0]] = next(iter(moving.values()))
        else:
            makers = [one.layer for one in moving.values() if one.layer is not None]
            rides = node.op_type in _POINTWISE and makers
            number = max(makers) if rides else self._open(node, inputs)
            for one in inputs:
                self._read(number, one)
            for name in outputs:
                self._store(name, number, constant=False)

    def _stored_anew(self, name: str, source: _Stored) -> _Stored:
        """In another type: by the layer that makes it, before the first run, or on reading."""
        element = self.tensors[name].element
        small = replace(source, element=element)
        if source.constant:
            return replace(small, root=name, bytes=source.size * item_bytes(element))
        if source.layer is None:
            return small
        return replace(small, root=name, bytes=source.size * item_bytes(element))

    def _open(self, node: NodeProto, inputs: list[_Stored]) -> int:
        macs = self._macs(node)
        winograd = macs * 4 // 9 if self._suits_winograd(node) else macs
        self._layers.append(_Open(node, self._precision(node, inputs), macs, winograd))
        return len(self._layers) - 1

    def _read(self, number: int, one: _Stored) -> None:
        if one.layer != number:
            self._layers[number].traffic[one.root] = one.bytes
            self._write(one)

    def _write(self, one: _Stored) -> None:
        """Somebody outside of the layer that makes it needs this."""
        if one.layer is not None:
            self._layers[one.layer].traffic[one.root] = one.bytes

    def _precision(self, node: NodeProto, inputs: list[_Stored]) -> str:
        """int8 or fp8 where both factors are; else that of the result."""
        factors = {PRECISIONS.get(one.element) for one in inputs[:2]}
        for narrow in ("int8", "fp8"):
            if factors == {narrow}:
                return narrow
        return PRECISIONS.get(self.tensors[node.output[0]].element, "other")

    def _macs(self, node: NodeProto) -> int:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return 0
        left, right = (self.tensors[name] for name in node.input[:2])
        size = self.tensors[node.output[0]].size
        if node.op_type == "ConvTranspose":  # every input number meets a kernel of each output
            return left.size * (right.size // right.shape[0])
        if node.op_type == "Conv":
            return size * (right.size // right.shape[0])
        return size * left.shape[-2 if node.op_type == "Gemm" and _number(node, "transA") else -1]

    def _suits_winograd(self, node: NodeProto) -> bool:
        ones = {tuple(_numbers(node, name) or [1, 1]) for name in ("strides", "dilations")}
        return (
            node.op_type == "Conv"
            and self.tensors[node.input[1]].shape[2:] == (3, 3)
            and ones == {(1, 1)}
        )


def _size(moving: Mapping[str, _Stored]) -> int:
    """Numbers in the one tensor that is no constant."""
    (one,) = moving.values()
    return one.size


def _attribute(node: NodeProto, name: str) -> AttributeProto | None:
    return next((one for one in node.attribute if one.name == name), None)


def _number(node: NodeProto, name: str) -> int:
    found = _attribute(node, name)
    return 0 if found is None else found.i


def _numbers(node: NodeProto, name: str) -> list[int]:
    found = _attribute(node, name)
    return [] if found is None else list(found.ints)
