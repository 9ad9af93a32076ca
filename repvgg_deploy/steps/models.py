"""models: every variant of the zoo, counted."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.count import Counts, count
from ..models.zoo import ZOO, Variant


@dataclass(frozen=True)
class ZooRow:
    """A variant and its counts; multiply-adds are for one 224 x 224 image."""

    variant: Variant
    counts: Counts


def count_zoo() -> list[ZooRow]:
    """All variants, in the order of the paper's tables."""
    return [ZooRow(variant, count(variant.spec())) for variant in ZOO.values()]
