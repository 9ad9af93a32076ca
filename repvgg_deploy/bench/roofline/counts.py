"""Multiply-adds and the least bytes moved, from an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from ...errors import UserError
from .layers import Layer, Walk
from .shapes import infer_tensors

#: They multiply, and nothing here counts them.
_UNCOUNTED = {
    "Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "LSTM", "MatMulInteger",
    "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Of one batch of ``batch`` images."""

    batch: int
    layers: list[Layer]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products, those on padding included."""
        return sum(layer.macs for layer in self.layers)

    @property
    def winograd(self) -> int:
        """Multiplications by the RepVGG paper's count (section 4, "Wino MULs"): 4/9 of them for a
        3x3 convolution of stride 1, by F(2x2, 3x3) of Lavin & Gray 2016. A count under one
        algorithm, not a time: its additions and transforms are not in it."""
        return sum(layer.winograd for layer in self.layers)

    @property
    def bytes(self) -> int:
        """The least traffic of all layers together."""
        return sum(layer.bytes for layer in self.layers)


def count(
    model: ModelProto, batch: int, image_size: tuple[int, int] | None = None, name: str = "model"
) -> Counts:
    """Count a model at a batch size; ``image_size`` (height, width) fills in open sides.

    Raises:
        UserError: it names ``name``: shapes that stay unknown, another batch than the fixed one, or
            an operator that is not counted.
    """
    tensors = infer_tensors(model, batch, image_size, name)
    walk = Walk(model, tensors)
    for node in model.graph.node:
        if node.op_type in _UNCOUNTED:
            raise UserError(
                f"{name}: holds {node.op_type}, which is not counted; convolutions and matrix "
                "products are (int8 ones between Q and DQ nodes)."
            )
        for missing in {*node.input} - {*walk.stored, ""}:
            raise UserError(f"{name}: nothing makes {missing!r}, which {node.op_type} reads.")
        walk.add(node)
    return Counts(batch, walk.layers([output.name for output in model.graph.output]))
