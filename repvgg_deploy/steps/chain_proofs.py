"""Proofs of a folder's files: those that their sidecars hold, and the same run once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifacts import EngineArtifact, FusedArtifact, QuantizedArtifact
from ..engine.compatible import judge, this_machine
from ..equivalence.compare import RATIO_LIMIT
from ..equivalence.truth_file import Truth
from ..errors import CheckFailed, UserError
from ..files import is_onnx
from ..optional import available
from ..runners.torch_network import pick_device
from ..workspace import ModelFolder
from .chain_contents import Artifact, detail_of
from .engine_proof import pick_reference
from .int8_proof import stored_quality
from .int8_quality import measure_quality, prove_quality
from .truth import hold_graph, hold_weights
from .verdict import Verdict
from .verify import average_where_held, verify_pair
from .weights import BY_ITSELF, Reading, read_weights

Result = tuple[bool | None, str]
Calibration = Callable[[QuantizedArtifact], Iterable[NDArray[np.float32]] | None]


@dataclass
class Again:
    """How proofs are run: on ``device`` and ``images`` as verify has them.

    ``truth`` are recorded outputs of the user's own model. ``verdicts`` collects what came out,
    ``refused`` why proofs could not be run. ``calibration`` gives the images that an int8 model was
    calibrated with, in batches, of what its sidecar says of them; None where they are gone.
    """

    device: str
    images: Path | None
    verdicts: list[Verdict]
    calibration: Calibration = lambda _artifact: None
    truth: Truth | None = None
    refused: list[UserError] = field(default_factory=list)


def stored_proof(artifact: Artifact) -> Result:
    """Whether the proof in a sidecar says, figure by figure, that it passed."""
    if artifact.proof is None:
        is_engine = isinstance(artifact, EngineArtifact)
        missing = "the engine has not run yet" if is_engine else "there is none"
        return None, missing
    if isinstance(artifact, QuantizedArtifact):
        return stored_quality(artifact.proof)
    pending: list[Any] = [artifact.proof]
    figures = 0
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            pending += part.values()
            if "ratio" in part and not _holds(part):
                return False, f"it says of {part.get('name')}: {part.get('reason')}"
            figures += "ratio" in part
    if artifact.proof.get("passed") is not True or not figures:
        return False, "it does not say that it passed"
    return True, ""


def _holds(part: dict[str, Any]) -> bool:
    ratio, limit = part.get("ratio"), part.get("limit")
    if not isinstance(ratio, (int, float)) or not isinstance(limit, (int, float)):
        return False
    return 0 <= ratio <= limit <= RATIO_LIMIT and part.get("passed") is True


def held_to_truth(path: Path, artifact: Artifact, again: Again) -> Result:
    """Whether one file gives the recorded outputs.

    Raises:
        UserError: the device cannot be used.
    """
    assert again.truth is not None  # the caller
    if isinstance(artifact, EngineArtifact):
        return None, "an engine is compared with the model that it was built from"
    device = pick_device(again.device)
    try:
        if isinstance(artifact, FusedArtifact):
            found = hold_weights(read_weights(path), again.truth, device)
        else:
            weights = ModelFolder(path.parent).fused
            ours = artifact.source.path == weights.name and weights.is_file()
            network = read_weights(weights).whole if ours else None
            found = hold_graph(path, again.truth, network=network)
    except CheckFailed as error:
        return False, detail_of(error, path)
    except UserError as error:
        return None, detail_of(error, path)
    return True, f"the worst sample differs by {found.error:.1e}"


def prove_again(path: Path, artifact: Artifact, source: Path | None, again: Again) -> Result:
    """Run the proof of one file against what it was made from.

    Raises:
        UserError: the device or the images cannot be used, or a file cannot be read.
    """
    if isinstance(artifact, FusedArtifact):
        if artifact.source_form != "train":
            return None, "the checkpoint was fused already, so there is nothing to compare"
        reading = average_where_held(Reading.of(artifact))
    else:
        reading = BY_ITSELF
    if source is None:
        return None, f"{artifact.source.path} is not here"
    if isinstance(artifact, QuantizedArtifact) and not artifact.data:
        return None, "no file with its integers lies beside it"
    if isinstance(artifact, EngineArtifact):
        verdict = judge(artifact, this_machine(artifact.flavour))
        if not verdict.loads:
            return None, f"the engine {verdict.sentence}"
        weights = ModelFolder(path.parent).fused
        if artifact.lineage and artifact.lineage[0]["path"] == weights.name:
            source = pick_reference(artifact.precision, weights, source)
    elif not isinstance(artifact, FusedArtifact) and available("onnxruntime") is None:
        return None, "ONNX Runtime is not installed"
    result = _prove(source, path, reading, again)
    if isinstance(artifact, QuantizedArtifact) and not is_onnx(source) and result[0]:
        return _prove_quality(source, path, artifact, again)
    return result


def _prove_quality(source: Path, path: Path, artifact: QuantizedArtifact, again: Again) -> Result:
    """With the images that it was calibrated with, where they are still there."""
    batches = again.calibration(artifact)
    if batches is None:
        return True, (
            f"its SQNR was not measured again, since {artifact.calibration.get('path')} does not "
            "hold the images that it was measured on any more"
        )
    network = read_weights(source).network.build()
    measured = measure_quality(network, path, batches, pick_device(again.device))
    return prove_quality(artifact, measured)


def _prove(source: Path, path: Path, reading: Reading, again: Again) -> Result:
    verdict = verify_pair(source, path, again.device, again.images, reading)
    again.verdicts.append(verdict)
    return not verdict.failures, verdict.failures[0] if verdict.failures else ""
