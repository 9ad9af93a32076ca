"""Reading ``train.json`` strictly: it may come from anywhere."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UserError
from ..files import read_error
from ..rebuild import load_json, rebuild
from ..records import check
from .record import SCHEMA, Epoch, TrainRecord

#: In bytes: a hundred thousand epochs, or the names of as many corrupt images.
_LARGEST = 1 << 25
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_training(path: Path) -> TrainRecord:
    """What a training run says of itself.

    Raises:
        UserError: no such file, not a record of ``train``, damaged, or of another schema.
    """
    try:
        data = load_json(path, _LARGEST)
        if not isinstance(data, dict):
            raise TypeError("it is no JSON object")
        schema = data.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise UserError(
                f"{path}: has schema {str(schema)[:20]}, and this version reads {SCHEMA}; is it a "
                "train.json, and is the tool up to date?"
            )
        record = rebuild(TrainRecord, data)
        check(record, TrainRecord)
        _check(record)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; train writes it beside the checkpoints of a run."
        ) from error
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: is no training record that can be read ({str(error)[:200]}); train again."
        ) from error
    return record


def _check(record: TrainRecord) -> None:
    """What code that reads a record relies on."""
    if record.kind not in ("train", "qat"):
        raise ValueError(f"{record.kind[:20]!r} is no kind of training")
    for sha256 in record.checkpoints.values():
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256[:20]!r} is no SHA-256")
    before = 0
    for epoch in record.epochs:
        if epoch.epoch <= before:
            raise ValueError(f"epoch {epoch.epoch} stands after epoch {before}")
        before = epoch.epoch
        _check_numbers(epoch)


def _check_numbers(epoch: Epoch) -> None:
    for name, number in vars(epoch).items():
        largest = 100 if "_top" in name else 2**53
        if number is not None and not 0 <= number <= largest:
            raise ValueError(f"{name} {number:.3g} of epoch {epoch.epoch} is out of range")
