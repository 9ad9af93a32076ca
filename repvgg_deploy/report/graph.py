"""What fusing an ONNX graph did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .text import count_text, left_lines
from .truth import truth_line

if TYPE_CHECKING:
    from ..reparam.graph.result import LeftRegion
    from ..steps.fuse_onnx import OnnxFusion


def left_text(region: LeftRegion) -> str:
    """Place and reason; the whole graph has no place."""
    return f"{region.tensor}: {region.reason}" if region.tensor else region.reason


def graph_lines(result: OnnxFusion) -> list[str]:
    """Regions fused, regions left with the reason, and the proof."""
    if not result.fused:
        lines = [f"{result.source}: nothing to fuse; the model stays as it is"]
    else:
        count = len(result.fused)
        became = (
            f"{count} regions became one Conv each" if count > 1 else "1 region became one Conv"
        )
        lines = [f"{result.source}: {became}"]
    lines += left_lines([left_text(region) for region in result.left])
    if result.proof is not None and (worst := result.proof.worst) is not None:
        outputs = count_text(len(result.proof.outputs), "output")
        regions = count_text(len(result.proof.regions), "region")
        lines.append(
            f"proof: worst of {outputs} and {regions} {worst.ratio:.2f} times what rounding "
            f"explains (limit {worst.limit:g})"
        )
    if result.truth is not None:
        lines.append(truth_line(result.truth))
    return lines
