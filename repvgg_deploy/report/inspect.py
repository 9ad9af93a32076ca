"""What a file holds, as a table and a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .assumptions import assumption_lines
from .fuse import family_lines
from .graph import left_text
from .text import counts_text, table

if TYPE_CHECKING:
    from ..steps.inspect import CheckpointInspection, OnnxInspection

_BLOCK_HEADER = (
    "block", "family", "kind", "branches", "fused kernel", "SE", "parameters", "fused",
)  # fmt: skip
_REGION_HEADER = ("from", "to", "nodes", "convs", "MACs a pixel", "fused", "weights", "fused")


def checkpoint_text(found: CheckpointInspection) -> str:
    """One line a block, then what would stay or go."""
    lines = [f"{found.path}: {found.architecture} ({found.format}, {found.held})"]
    lines += family_lines(found.kinds, found.reading)
    lines += assumption_lines(found.assumptions)
    if found.blocks:
        rows = [
            (
                block.path or "(root)",
                block.family,
                block.block,
                str(block.branches),
                "x".join(map(str, block.kernel)),
                "yes" if block.squeeze_excitation else "-",
                f"{block.parameters:,}",
                f"{block.parameters_after:,}",
            )
            for block in found.blocks
        ]
        lines.append(table(_BLOCK_HEADER, rows, left=3))
    else:
        lines.append(f"nothing to fuse: {found.nothing}")
    lines += [f"stays as it is: block {path}: {reason}" for path, reason in found.left.items()]
    if found.not_whole and found.blocks:
        lines.append(f"no export or bench: {found.not_whole}")
    lines.append(_parameters(found))
    return "\n".join(lines)


def onnx_text(found: OnnxInspection) -> str:
    """One line a region, then what would stay."""
    lines = [f"{found.path}: opset {found.opset}, {counts_text(found.operators)}"]
    if found.fused:
        rows = [
            (
                region.source,
                region.end,
                str(len(region.nodes)),
                str(region.convs),
                f"{region.macs_before:,}",
                f"{region.macs_after:,}",
                f"{region.weights_before:,}",
                f"{region.weights_after:,}",
            )
            for region in found.fused
        ]
        lines.append(table(_REGION_HEADER, rows, left=2))
    else:
        lines.append("nothing to fuse")
    if found.quantized:
        lines.append(found.quantized)
    lines += [f"stays as it is: {left_text(place)}" for place in found.left]
    lines.append(_parameters(found))
    return "\n".join(lines)


def _parameters(found: CheckpointInspection | OnnxInspection) -> str:
    return f"parameters: {found.parameters:,}; fused: {found.parameters_after:,}"
