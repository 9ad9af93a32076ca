"""The training run that the checkpoint came from, where its record lies beside it."""

from __future__ import annotations

from pathlib import Path

from ...artifacts import FusedArtifact
from ...errors import UserError
from ...files import sha256_file
from ...train.read import read_training
from ..training_record import NAME
from .files import Found
from .record import Absent, Training

COMMAND = "repvgg-deploy train --arch NAME --data IMAGES --epochs N"


def find_training(files: list[Found]) -> Training | Absent:
    """By the checkpoint's hash; a record of another checkpoint, or a later one, is none of it."""
    fused = next((f.artifact for f in files if isinstance(f.artifact, FusedArtifact)), None)
    root = next((f for f in files if f.entry.kind == "checkpoint"), None)
    if fused is None or root is None:
        return Absent("training", "no checkpoint is known", COMMAND)
    if root.origin is None:
        why = root.entry.detail or "is not here any more"
        return Absent("training", f"the checkpoint cannot be looked at: {why}", COMMAND)
    path = root.origin.with_name(NAME)
    if not path.exists():
        return Absent("training", f"no {NAME} lies beside {root.origin.name}", COMMAND)
    try:
        record, sha256 = read_training(path), sha256_file(path)
    except UserError as error:
        return Absent("training", str(error).removesuffix("."), COMMAND)
    if fused.source.sha256 not in record.checkpoints.values():
        why = f"{path} is of other checkpoints than this one, or of a later state of it"
        return Absent("training", why, COMMAND)
    return Training(str(path), sha256, Path(root.origin).name, record)
