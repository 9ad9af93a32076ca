"""The zoo as a table."""

from __future__ import annotations

from collections.abc import Sequence

from ..steps.models import ZooRow
from .text import table

_HEADER = (
    "model", "train params", "deploy params", "MACs (B)", "Winograd muls (B)", "top-1 %", "at px",
)  # fmt: skip


def models_text(rows: Sequence[ZooRow]) -> str:
    """One line a variant, and what the columns mean."""
    lines = [
        (
            row.variant.name,
            f"{row.counts.train_params:,}",
            f"{row.counts.deploy_params:,}",
            f"{row.counts.macs / 1e9:.2f}",
            f"{row.counts.winograd_muls / 1e9:.2f}",
            row.variant.paper_top1 or "-",
            str(row.variant.image_size) if row.variant.paper_top1 else "-",
        )
        for row in rows
    ]
    return "\n".join(
        [
            table(_HEADER, lines),
            "Parameters for 1000 classes, batch-norm statistics and auxiliary heads' parameters as "
            "training holds them;",
            "MACs and Winograd multiplications (a stride-1 3x3 conv at 4/9) of the deploy form at "
            "224 px.",
            "ImageNet top-1 as published by the authors, not measured here (*: 200 epochs, "
            "AutoAugment and mixup; others of the paper 120).",
        ]
    )
