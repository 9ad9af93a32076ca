"""What fuse found and did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .assumptions import assumption_lines
from .text import left_lines

if TYPE_CHECKING:
    from ..steps.fuse import FuseResult
    from ..steps.inventory import BlockCount
    from ..steps.weights import Reading


def found_lines(result: FuseResult) -> list[str]:
    """Architecture, families, what was left and what was dropped."""
    weights = result.weights
    lines = [f"{weights.path}: {result.artifact.architecture} ({weights.checkpoint.wrapper})"]
    lines += family_lines(result.blocks, weights.reading)
    lines += left_lines([f"block {path}: {reason}" for path, reason in weights.left.items()])
    lines += assumption_lines(result.assumptions)
    if weights.whole is None:
        lines.append(f"no export or bench: {weights.partial}")
    return lines


def family_lines(blocks: Sequence[BlockCount], reading: Reading) -> list[str]:
    """One line a kind of block, with eps and where it came from."""
    lines = []
    for found in blocks:
        source = "this family's own; --eps sets another" if reading.eps is None else "--eps"
        se = f", {found.with_se} with SE" if found.with_se else ""
        lines.append(
            f"{found.family}: {found.count} {found.block}{se}, "
            f"batch-norm eps {found.eps:g} ({source})"
        )
        if found.taken_to_widen:
            lines.append(
                f"note: {found.taken_to_widen} of them are taken for dense blocks that widen, so "
                "without identity; if they are grouped, fuse the model itself (docs/python.md)"
            )
        if found.taken_at_stride_1:
            lines.append(
                f"note: {found.taken_at_stride_1} of them have as many channels out as in and are "
                "taken for blocks of stride 1, so with an identity; if one has another stride, "
                "fuse the model itself (docs/python.md)"
            )
        if found.note and reading.family is None:
            lines.append(f"note: {found.note}")
    return lines
