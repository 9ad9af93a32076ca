"""What a step of training sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Preprocessed ``images`` [n, C, H, W] in float32 and their ``labels`` [n], int64; None where
    they are not known, which distillation does not ask for."""

    images: Tensor
    labels: Tensor | None
