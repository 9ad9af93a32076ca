"""How many operators each form has, and how many parameters."""

from __future__ import annotations

from collections import Counter

from ...artifacts import OnnxArtifact, QuantizedArtifact
from ...reparam.blocks import TrainBlock
from ..inventory import parameters, training_only
from ..weights import WeightsFile
from .files import Found
from .parts import Operators


def count_operators(
    files: list[Found], train: WeightsFile | None, fused: WeightsFile | None
) -> list[Operators]:
    """Blocks of the training form, of the fused one, and the graph of every ONNX model.

    ``train`` is None where there is no training form to count.
    """
    counted = []
    if train is not None:
        kept = set(train.checkpoint.state).difference(training_only(train))
        counted.append(
            Operators(train.path.name, False, _of_blocks(train), parameters(train, sorted(kept)))
        )
        if fused is not None:
            single = Counter(map(_fused, train.blocks))
            weights = parameters(fused, list(fused.checkpoint.state))
            counted.append(Operators(fused.path.name, False, dict(single), weights))
    for found in files:
        if isinstance(found.artifact, OnnxArtifact | QuantizedArtifact):
            counts = {name: int(count) for name, count in found.artifact.operators.items()}
            counted.append(Operators(found.entry.name, True, counts, None))
    return counted


def _of_blocks(weights: WeightsFile) -> dict[str, int]:
    """Linear operators of the blocks: what folding takes away, or turns into one convolution."""
    names = {"conv": "Conv", "linear": "Gemm", "norm": "BatchNormalization", "scale": "Mul"}
    counts: Counter[str] = Counter()
    for block in weights.blocks:
        counts.update(names[step.kind] for step in block.steps())
        counts["AveragePool"] += sum(
            branch.branch.average_pool is not None for branch in block.branches
        )
        counts["Add"] += len(block.branches) - 1
    return {name: count for name, count in counts.most_common() if count}


def _fused(block: TrainBlock) -> str:
    """A classifier of two branches becomes one as well."""
    return "Gemm" if any(step.kind == "linear" for step in block.steps()) else "Conv"
