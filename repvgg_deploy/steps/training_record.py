"""The record of the training run that a file goes back to."""

from __future__ import annotations

from pathlib import Path

from ..data.preprocessing import Preprocessing
from ..errors import UserError
from ..files import sha256_file
from ..sidecar import lineage
from ..train.read import read_training
from ..train.record import TrainRecord

NAME = "train.json"


def find_record(path: Path) -> TrainRecord | None:
    """Of the checkpoint at ``path``, or of the one that an artifact was made from.

    It lies beside the checkpoint and names its SHA-256; None where there is no such record, for
    other tools have files of this name too.
    """
    sources = lineage(path)
    checkpoint = Path(sources[-1].path) if sources else path
    try:
        record = read_training(checkpoint.with_name(NAME))
        sha256 = sources[-1].sha256 if sources else sha256_file(path)
    except (UserError, OSError, ValueError):
        return None
    return record if sha256 in record.checkpoints.values() else None


def trained_preprocessing(path: Path) -> Preprocessing | None:
    """What the images were like that the network in ``path`` was trained on; None: not known."""
    record = find_record(path)
    try:
        return None if record is None else Preprocessing.from_dict(record.data.preprocessing)
    except ValueError:
        return None
