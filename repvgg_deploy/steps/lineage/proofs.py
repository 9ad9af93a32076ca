"""The proof that every sidecar holds of the arrow to its file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ...artifacts import EngineArtifact, FusedArtifact, QuantizedArtifact
from ...equivalence.truth import TruthCheck
from ...rebuild import rebuild
from ...sqnr import LOWEST
from ..chain_contents import Artifact
from ..chain_proofs import stored_proof
from .files import Found
from .parts import Compared, Likeness, Proof, Verdict


def read_proofs(files: list[Found]) -> list[Proof]:
    """One for each file that was made from another; of a file that is not what its sidecar says,
    that proof is of another file and does not count."""
    return [_proof(found) for found in files if found.entry.source is not None]


def _proof(found: Found) -> Proof:
    entry, artifact = found.entry, found.artifact
    assert entry.source is not None  # read_proofs
    if artifact is None:
        word = "is missing" if entry.status == "missing" else "is not what its sidecar says"
        verdict: Verdict = "not proved" if entry.status == "missing" else "failed"
        detail = f"the file {word}, so the recorded proof is not of it"
        return Proof(entry.source, entry.name, verdict, detail, [], None, None)
    verdict, detail = _verdict(found, artifact)
    return Proof(
        entry.source,
        entry.name,
        verdict,
        detail,
        list(_compared(artifact.proof)),
        _worst_algebra(artifact.proof),
        _likeness(artifact) if isinstance(artifact, QuantizedArtifact) else None,
        None if entry.status == "stale" else _truth(artifact),
    )


def _truth(artifact: Artifact) -> TruthCheck | None:
    """What the sidecar records of recorded outputs; None where it holds nothing of that kind."""
    if isinstance(artifact, EngineArtifact) or artifact.truth is None:
        return None
    try:
        return rebuild(TruthCheck, artifact.truth)
    except (TypeError, ValueError):
        return None


def _verdict(found: Found, artifact: Artifact) -> tuple[Verdict, str]:
    if isinstance(artifact, FusedArtifact) and artifact.source_form != "train":
        return "nothing to prove", "the checkpoint was fused already"
    passed, detail = stored_proof(artifact)
    if passed and found.entry.status == "stale":
        return "not proved", f"its proof is of an earlier state: {found.entry.detail}"
    return ("not proved" if passed is None else "proved" if passed else "failed"), detail


def _compared(part: Any) -> Iterator[Compared]:
    """Everything in a proof that has an error ratio, in its order."""
    if isinstance(part, list):
        for one in part:
            yield from _compared(one)
    elif isinstance(part, dict):
        if "ratio" in part:
            ratio, limit = _number(part["ratio"]), _number(part.get("limit"))
            passed = part.get("passed") is True
            yield Compared(str(part.get("name")), ratio, limit, passed)
        for one in part.values():
            yield from _compared(one)


def _worst_algebra(proof: dict[str, Any] | None) -> float | None:
    algebra = (proof or {}).get("algebra")
    values = algebra.values() if isinstance(algebra, dict) else ()
    return max((found for value in values if (found := _number(value)) is not None), default=None)


def _likeness(artifact: QuantizedArtifact) -> Likeness:
    proof = artifact.proof
    integers = proof["integers"] or {}
    sqnr_db = proof["sqnr_db"]
    return Likeness(
        samples=proof["samples"],
        held_out=proof.get("held_out") is True,
        sqnr_db=sqnr_db if sqnr_db is None or math.isfinite(sqnr_db) else LOWEST,
        agreement=_number(proof["agreement"]),
        top1_drop=_number(proof["top1_drop"]),
        integers=integers.get("values"),
        differing=integers.get("differing"),
        largest=integers.get("largest"),
    )


def _number(value: object) -> float | None:
    """A finite number; a sidecar may hold anything."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]
