"""Multiply-adds and the least bytes moved, from an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto


@dataclass(frozen=True)
class Layer:
    """A node and the pointwise ones that ride with it. ``precision`` is of its arithmetic."""

    name: str
    operator: str
    precision: str
    macs: int
    winograd: int
    bytes: int


@dataclass(frozen=True)
class Counts:
    """Of one batch of ``batch`` images."""

    batch: int
    layers: list[Layer]

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    @property
    def winograd(self) -> int:
        """Multiplications by the RepVGG paper's count: a count, not a time."""
        return sum(layer.winograd for layer in self.layers)

    @property
    def bytes(self) -> int:
        """The least traffic: weights once, activations written and read once."""
        return sum(layer.bytes for layer in self.layers)


def count(
    model: ModelProto, batch: int, image_size: tuple[int, int] | None = None, name: str = "model"
) -> Counts:
    """Count a model at a batch size. UserError, which names ``name``: shapes that are unknown."""
    raise NotImplementedError
