"""A block found in a torch module."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from ..blocks import TrainBlock
from ..family import BlockFamily


@dataclass
class Candidate:
    """A module that has the branches of a family; ``paths``: all of its places in the tree."""

    paths: list[str]
    module: nn.Module
    block: TrainBlock
    #: Why it cannot be fused, as far as its children say.
    obstacle: str | None = None
    #: The branches' operations by their full names, scale parameters included.
    steps: dict[str, nn.Module | Tensor] = field(default_factory=dict)

    @property
    def family(self) -> BlockFamily:
        return self.block.family

    @property
    def tail(self) -> dict[str, nn.Module]:
        """The modules after the sum, in the order of forward."""
        named = self.module._modules
        return {name: child for name in self.family.tail if (child := named.get(name)) is not None}
