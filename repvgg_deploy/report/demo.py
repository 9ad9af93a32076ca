"""The demo's accuracy table."""

from __future__ import annotations

from collections.abc import Sequence

from ..steps.demo import Accuracy
from .text import table


def accuracy_text(rows: Sequence[Accuracy]) -> str:
    """One line a network."""
    lines = [
        (row.network, str(row.images), f"{row.top1:.2f} %", f"{row.agreement:.1f} %")
        for row in rows
    ]
    return table(("network", "images", "top-1", "same answer as unfused"), lines)
