"""Reference networks as ONNX models: no download."""

from __future__ import annotations

import onnx


def reference_onnx(
    name: str,
    image_size: tuple[int, int] = (224, 224),
    batch: int | None = None,
    *,
    precision: str = "fp32",
    num_classes: int = 1000,
) -> onnx.ModelProto:
    """``models.reference.reference(name)``, conv-BN folded, as ONNX; arguments as ``to_onnx``."""
    raise NotImplementedError
