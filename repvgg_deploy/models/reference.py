"""Networks to hold a RepVGG against, by name; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

#: name -> (kind of block, blocks of each stage): He et al. 2016, table 1.
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
REFERENCES = tuple(RESNETS)


def reference(name: str, num_classes: int = 1000, *, folded: bool = True) -> nn.Module:
    """The network of that name, one of REFERENCES, with random weights, in eval mode.

    ``folded``: batch norms are folded into the convolutions, as any deployment has them; else it
    is as trained. The weights are the same at every call. KeyError for another name.
    """
    raise NotImplementedError
