"""Engines in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .text import count_text

if TYPE_CHECKING:
    from ..artifacts import EngineArtifact


def built_text(artifact: EngineArtifact) -> str:
    """What was built and for which GPUs, and how far that is proved."""
    typed = sum(row["input"] == artifact.precision for row in artifact.layers)
    total = count_text(len(artifact.layers), "weighted layer")
    where = ", ".join(artifact.targets)
    if artifact.gpu is not None:
        where = f"{artifact.gpu['name']} ({where})"
    return f"{artifact.precision} in {typed} of {total}, for {where}; {_proof_text(artifact)}"


def _proof_text(artifact: EngineArtifact) -> str:
    if artifact.proof is None:
        return "built, not run"
    check = artifact.proof["checks"][0]
    return f"run on this GPU: error ratio {check['ratio']:.2f} (limit {check['limit']:g})"
