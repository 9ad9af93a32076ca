"""What fusing a graph did, and what it left."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto


@dataclass(frozen=True)
class FusedRegion:
    """Nodes that became one Conv from ``source`` to ``end`` (tensor names).

    ``macs_*`` are multiply-adds for one pixel of ``end``, all channels (scaling a channel counts
    as none); ``weights_*`` are the numbers in kernels, biases and other constants.
    """

    nodes: tuple[str, ...]
    source: str
    end: str
    convs: int
    macs_before: int
    macs_after: int
    weights_before: int
    weights_after: int


@dataclass(frozen=True)
class LeftRegion:
    """Linear nodes around ``tensor`` that stay apart, and why."""

    nodes: tuple[str, ...]
    tensor: str
    reason: str


@dataclass(frozen=True)
class GraphFusion:
    """``model`` is the very model that was given where ``fused`` is empty."""

    model: ModelProto
    fused: tuple[FusedRegion, ...]
    left: tuple[LeftRegion, ...]
