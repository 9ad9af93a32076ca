"""The training runs that the checkpoint and the int8 model came from, where their records lie
beside what they saved."""

from __future__ import annotations

from pathlib import Path

from ...artifacts import FusedArtifact, QuantizedArtifact
from ...errors import UserError
from ...files import sha256_file
from ...train.read import read_training
from ..quantize_options import TRAINED
from ..training_record import NAME
from .files import Found
from .record import Absent, Training

COMMAND = "repvgg-deploy train --arch NAME --data IMAGES --epochs N"
INT8 = "training for int8"
INT8_COMMAND = "repvgg-deploy train --qat --init CHECKPOINT --data IMAGES --epochs N"


def find_training(files: list[Found]) -> Training | Absent:
    """By the checkpoint's hash; a record of another checkpoint, or a later one, is none of it."""
    fused = next((f.artifact for f in files if isinstance(f.artifact, FusedArtifact)), None)
    root = next((f for f in files if f.entry.kind == "checkpoint"), None)
    if fused is None or root is None:
        return Absent("training", "no checkpoint is known", COMMAND)
    if root.origin is None:
        why = root.entry.detail or "is not here any more"
        return Absent("training", f"the checkpoint cannot be looked at: {why}", COMMAND)
    return _beside("training", root.origin, fused.source.sha256, COMMAND)


def find_int8_training(files: list[Found]) -> Training | Absent | None:
    """By the hash of the checkpoint that the int8 model's sidecar names; None: there is no int8
    model, or it was not trained."""
    int8 = next((f.artifact for f in files if isinstance(f.artifact, QuantizedArtifact)), None)
    if int8 is None or int8.method.get("effort") != TRAINED:
        return None
    checkpoint, sha256 = int8.method.get("checkpoint"), int8.method.get("sha256")
    if not isinstance(checkpoint, str) or not isinstance(sha256, str):
        return Absent(INT8, f"{int8.file} does not say which checkpoint it is of", INT8_COMMAND)
    return _beside(INT8, Path(checkpoint), sha256, INT8_COMMAND)


def _beside(section: str, checkpoint: Path, sha256: str, command: str) -> Training | Absent:
    path = checkpoint.with_name(NAME)
    if not path.exists():
        return Absent(section, f"no {NAME} lies beside {checkpoint.name}", command)
    try:
        record, own = read_training(path), sha256_file(path)
    except UserError as error:
        return Absent(section, str(error).removesuffix("."), command)
    if sha256 not in record.checkpoints.values():
        why = f"{path} is of other checkpoints than this one, or of a later state of it"
        return Absent(section, why, command)
    return Training(str(path), own, checkpoint.name, record)
