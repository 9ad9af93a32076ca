"""An engine that was just built runs on this machine's GPU, where it has one that fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..artifacts import EngineArtifact
from ..engine.compatible import judge, this_machine
from ..errors import CheckFailed, UserError
from .verify import verify_pair
from .weights import TORCH_DTYPE


@dataclass(frozen=True)
class EngineProof:
    """``record`` goes into the sidecar; None where it could not run, and ``reason`` says why."""

    record: dict[str, Any] | None
    reason: str


def pick_reference(precision: str, weights: Path, onnx: Path) -> Path:
    """What an engine is held against: the fused weights, if there are any that torch can run in
    its precision; else the ONNX model, of which a quantized engine has its scales."""
    return weights if precision in TORCH_DTYPE and weights.exists() else onnx


def prove_engine(engine: Path, artifact: EngineArtifact, reference: Path) -> EngineProof:
    """Run an engine, whose sidecar lies beside it, against ``reference``.

    Raises:
        CheckFailed: it ran, and is not the same network.
    """
    verdict = judge(artifact, this_machine(artifact.flavour))
    if not verdict.loads:
        return EngineProof(None, verdict.sentence)
    try:
        result = verify_pair(reference, engine)
    except UserError as error:
        return EngineProof(None, str(error))
    if result.failures:
        raise CheckFailed(
            f"{reference}: the engine built from it is another network: {result.failures[0]}; "
            "nothing was written."
        )
    end = result.end_to_end
    assert end is not None  # a comparison with an engine always has one
    return EngineProof({"passed": True, "device": result.device, "checks": [asdict(end)]}, "")
