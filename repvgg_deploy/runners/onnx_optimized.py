"""What ONNX Runtime makes of a graph before it runs it."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto


def optimized(model: Path | bytes, device: str = "cpu") -> ModelProto:
    """The graph that ONNX Runtime runs, all optimisations on. UserError: it cannot be loaded."""
    raise NotImplementedError
