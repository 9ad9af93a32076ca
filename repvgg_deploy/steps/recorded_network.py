"""What an earlier step wrote down about the network in a file, so that no step infers it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..artifacts import FusedArtifact
from ..errors import UserError
from ..models.spec import ArchSpec
from ..sidecar import load_sidecar, read_sidecar, sidecar_path
from .training_record import NAME, find_record


@dataclass(frozen=True)
class RecordedNetwork:
    """``by`` is the file that says so.

    ``spec`` is None where fuse found no whole RepVGG network; ``not_whole`` is its reason.
    """

    by: Path
    spec: ArchSpec | None
    not_whole: str = ""


def find_recorded(path: Path) -> RecordedNetwork | None:
    """From the sidecar of fused weights, or from the train.json beside a checkpoint of train.

    None where neither describes the file: other tools write files of such names too.

    Raises:
        UserError: the sidecar is damaged, or the file has changed since.
    """
    if _has_fuse_sidecar(path):
        return _by_sidecar(path)
    record = find_record(path)
    if record is None or record.kind != "train":
        return None
    beside = path.with_name(NAME)
    try:
        return RecordedNetwork(beside, ArchSpec.from_dict(record.spec))
    except (TypeError, ValueError) as error:
        raise UserError(f"{beside}: does not describe the network of {path} ({error}).") from error


def _has_fuse_sidecar(path: Path) -> bool:
    try:
        return "source_form" in load_sidecar(path)
    except (OSError, ValueError, TypeError, RecursionError):
        return path.name == "fused.safetensors" and sidecar_path(path).exists()


def _by_sidecar(path: Path) -> RecordedNetwork:
    sidecar = sidecar_path(path)
    artifact = read_sidecar(path, FusedArtifact)
    if artifact.spec is None:
        reason = artifact.not_whole or "fuse found no whole RepVGG network in its checkpoint."
        return RecordedNetwork(sidecar, None, reason)
    try:
        return RecordedNetwork(sidecar, ArchSpec.from_dict(artifact.spec))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{sidecar}: is damaged ({str(error)[:200]}); run the step that makes it again."
        ) from error
