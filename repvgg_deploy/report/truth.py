"""How a network compares with recorded outputs of the user's own model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..sqnr import from_json, sqnr_text
from .text import count_text

if TYPE_CHECKING:
    from ..equivalence.truth import TruthCheck
    from ..steps.fuse import FuseResult


def not_compared(result: FuseResult) -> str:
    """What fuse cannot know without recorded outputs."""
    if result.weights.whole is None:
        return (
            "the blocks were read off the file and not compared with your network; fuse its ONNX "
            "export with --truth for that"
        )
    return (
        "the architecture was read off the file and not compared with your network; --truth does "
        "that"
    )


def truth_line(found: TruthCheck) -> str:
    """The worst sample and its bound."""
    samples = count_text(found.samples, "sample")
    bound = (
        sqnr_text(from_json(found.sqnr_db)) if found.limit is None else f"limit {found.limit:.1e}"
    )
    return (
        f"truth: {found.path}, {samples}: agrees; the worst, number {found.worst_sample}, differs "
        f"by {found.error:.1e} in relative L2 ({bound})"
    )
