"""What was taken for what a checkpoint does not say, in a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..models.spec import strides_text
from .text import count_text

if TYPE_CHECKING:
    from ..steps.assumptions import Assumptions, Origin


def assumption_lines(found: Assumptions) -> list[str]:
    """One line; none where nothing had to be assumed and nothing was dropped."""
    by_origin: dict[Origin, list[str]] = {"given": [], "recorded": [], "assumed": []}
    options = []
    if found.eps:
        values = " and ".join(f"{eps:g}" for eps in found.eps)
        by_origin[found.eps_origin].append(f"batch-norm eps {values}")
        options += ["--eps"] if found.eps_origin == "assumed" else []
    if found.strides is not None:
        by_origin[found.strides_origin].append(f"strides {strides_text(found.strides)}")
        options += ["--strides"] if found.strides_origin == "assumed" else []
    if found.padding:
        by_origin["assumed"].append(f"padding {' and '.join(map(str, found.padding))}")
    if found.activation is not None:
        by_origin["assumed"].append(f"{found.activation} after each block")
    words = {
        "given": "as given",
        "recorded": "as an earlier step recorded",
        "assumed": "assumed, since the file does not say",
    }
    parts = [f"{words[origin]}: {', '.join(said)}" for origin, said in by_origin.items() if said]
    if options:
        parts.append(f"set with {', '.join(options)}")
    if found.dropped:
        parts.append(f"dropped: {count_text(len(found.dropped), 'auxiliary head')}")
    return ["; ".join(parts)] if parts else []
