"""An engine's inputs and outputs, what its profiles hold, and whether arrays fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...errors import UserError

Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The shapes of an input that one profile takes; it is tuned for ``opt``."""

    min: Shape
    opt: Shape
    max: Shape

    def holds(self, shape: Shape) -> bool:
        return len(shape) == len(self.min) and all(
            low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True)
        )

    def distance(self, shape: Shape) -> int:
        """How far ``shape`` is from what the profile is tuned for."""
        return sum(abs(side - best) for side, best in zip(shape, self.opt, strict=True))

    def __str__(self) -> str:
        return f"{shape_text(self.min)} to {shape_text(self.max)}"


@dataclass(frozen=True)
class EngineTensor:
    """An input or output. ``shape`` has -1 where a dimension is dynamic; ``ranges``, one for each
    profile, is empty for outputs."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class EngineTensors:
    """``path`` is the engine's, for the sentences of errors."""

    path: Path
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]

    @property
    def image(self) -> EngineTensor:
        """The one input [N, C, H, W] of a classification engine.

        Raises:
            UserError: it has other inputs.
        """
        if len(self.inputs) != 1 or len(self.inputs[0].shape) != 4:
            raise UserError(
                f"{self.path}: its inputs are {_listed(self.inputs)}; this step takes engines "
                "with one image input [batch, C, H, W]."
            )
        return self.inputs[0]

    def by_name(self, given: T | Mapping[str, T]) -> Mapping[str, T]:
        """``given`` if it maps names to arrays; else as the array of the only input.

        Raises:
            UserError: there are several inputs.
        """
        if isinstance(given, Mapping):
            return given
        if len(self.inputs) != 1:
            raise UserError(
                f"{self.path}: has the inputs {_listed(self.inputs)}; give a dict of arrays by "
                "these names."
            )
        return {self.inputs[0].name: given}

    def pick_profile(self, shapes: Mapping[str, Shape]) -> int:
        """The profile that holds these input shapes; of several, the one tuned nearest to them.

        Raises:
            UserError: no profile does.
        """
        count = len(self.inputs[0].ranges) if self.inputs else 1

        def distance(profile: int) -> int:
            return sum(t.ranges[profile].distance(shapes[t.name]) for t in self.inputs)

        fitting = [
            profile
            for profile in range(count)
            if all(t.ranges[profile].holds(shapes[t.name]) for t in self.inputs)
        ]
        if fitting:
            return min(fitting, key=distance)
        given = ", ".join(f"{t.name!r} of {shape_text(shapes[t.name])}" for t in self.inputs)
        held = "; ".join(
            ", ".join(str(t.ranges[profile]) for t in self.inputs) for profile in range(count)
        )
        raise UserError(
            f"{self.path}: no profile of the engine holds {given}, only {held}; use such a batch, "
            "or export it with another --profile."
        )

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse inputs of other names, types or dimensions; ``given`` holds arrays by name.

        Raises:
            UserError: says which input, and what the engine takes.
        """
        known = {tensor.name: tensor for tensor in self.inputs}
        for name in given:
            if name not in known:
                raise UserError(
                    f"{self.path}: has no input {name!r}; it has {_listed(self.inputs)}."
                )
        for name, tensor in known.items():
            if name not in given:
                raise UserError(f"{self.path}: its input {name!r} is missing.")
            array = given[name]
            if array.dtype != tensor.dtype:
                raise UserError(
                    f"{self.path}: its input {name!r} is {tensor.dtype}, and {array.dtype} was "
                    "given; cast it."
                )
            fits = len(array.shape) == len(tensor.shape) and all(
                side in (-1, got) for side, got in zip(tensor.shape, array.shape, strict=True)
            )
            if not fits:
                raise UserError(
                    f"{self.path}: its input {name!r} has the shape {shape_text(tensor.shape)}, "
                    f"and {shape_text(array.shape)} was given."
                )


def shape_text(shape: Sequence[int]) -> str:
    """``8x3x224x224``, N where a dimension is dynamic."""
    return "x".join("N" if side < 0 else str(side) for side in shape) or "no dimension"


def _listed(tensors: Sequence[EngineTensor]) -> str:
    return ", ".join(f"{tensor.name!r} ({shape_text(tensor.shape)})" for tensor in tensors)
