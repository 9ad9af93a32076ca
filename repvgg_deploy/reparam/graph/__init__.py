"""The ONNX front end: linear regions of any graph become single convolutions."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from ...errors import UserError
from .external import is_external
from .model import inner_tensors, put_together, take_apart
from .plan import make_plan
from .result import FusedRegion, GraphFusion, LeftRegion
from .rewrite import carry_out

__all__ = ["FusedRegion", "GraphFusion", "LeftRegion", "fuse_graph"]


def fuse_graph(
    model: ModelProto, *, allow_costlier: bool = False, folder: Path | None = None
) -> GraphFusion:
    """Fuse a model; ``model`` itself is not changed, and comes back where nothing can be fused.

    ``allow_costlier`` also merges branches whose one convolution takes more multiply-adds than
    they did. ``folder`` is where the model's external data lies; what is not fused stays there.

    Raises:
        UserError: the model has external data, and ``folder`` does not say where; or its nodes
            form a circle.
    """
    if folder is None and any(map(is_external, (*model.graph.initializer, *inner_tensors(model)))):
        raise UserError("the weights of this model lie in files; say with folder= where.")
    copy = ModelProto()
    copy.CopyFrom(model)
    parts = take_apart(copy, folder)
    fused, left = carry_out(make_plan(parts, allow_costlier))
    return GraphFusion(put_together(parts) if fused else model, fused, left)
