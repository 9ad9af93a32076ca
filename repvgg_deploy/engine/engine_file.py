"""An engine as a file: the plan itself, or a private header and the plan behind it.

Ultralytics writes the length of the header in four bytes (little-endian, signed), the header as a
JSON object, then the plan (ultralytics/utils/export/engine.py, onnx2engine); others follow it.
TensorRT's own loaders take the plan alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from ..files import read_error
from ..records import check
from .plan import MAGICS, Plan, read_plan

ENDINGS = (".engine", ".plan", ".trt")

#: Bytes of JSON. Names of a thousand classes take some fifty thousand.
_LARGEST_METADATA = 1 << 24


@dataclass(frozen=True)
class EngineFile:
    """``size`` in bytes. The plan begins at byte ``start``, 0 unless ``metadata`` stands before."""

    path: Path
    size: int
    start: int
    metadata: dict[str, Any] | None
    plan: Plan


def is_named_engine(path: Path) -> bool:
    """By the ending alone, of a file that may be gone."""
    return path.suffix.lower() in ENDINGS


def is_engine(path: Path) -> bool:
    """By the ending that engines have, or else by the first bytes."""
    if is_named_engine(path):
        return True
    try:
        if not path.is_file():  # to open a pipe would wait for its other end
            return False
        with path.open("rb") as stream:
            return _find_plan(stream) is not None
    except OSError:
        return False


def read_engine_file(path: Path) -> EngineFile:
    """Look at the headers alone, so at an engine of any size.

    Raises:
        UserError: no such file, no engine, or one that is cut off.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'is no file' if path.exists() else 'no such file'}.")
        with path.open("rb") as stream:
            found = _find_plan(stream)
            size = stream.seek(0, 2)
            if found is None:
                raise UserError(f"{path}: {_what_else(stream)}.")
            start, metadata = found
            return EngineFile(path, size, start, metadata, read_plan(path, stream, start))
    except OSError as error:
        raise read_error(path, error) from error


def _find_plan(stream: BinaryIO) -> tuple[int, dict[str, Any] | None] | None:
    """Where the plan begins, and the metadata before it; None where there is no plan."""
    stream.seek(0)
    if stream.read(4) in MAGICS:
        return 0, None
    metadata = _read_metadata(stream)
    start = stream.tell()
    if metadata is None or stream.read(4) not in MAGICS:
        return None
    return start, metadata


def _read_metadata(stream: BinaryIO) -> dict[str, Any] | None:
    """The JSON object of a private header, and the stream behind it; None where there is none."""
    stream.seek(0)
    length = int.from_bytes(stream.read(4), byteorder="little", signed=True)
    if not 2 <= length <= _LARGEST_METADATA or stream.read(1) != b"{":
        return None
    stream.seek(4)
    text = stream.read(length)
    try:
        metadata = json.loads(text.decode("utf-8"))
        check(metadata, dict[str, Any])
    except (ValueError, TypeError, RecursionError):
        return None
    return metadata if len(text) == length else None


def _what_else(stream: BinaryIO) -> str:
    """What a file without a plan seems to be."""
    if stream.seek(0, 2) == 0:
        return "is empty; copy or build it again"
    if _read_metadata(stream) is not None:
        return "has a header of metadata but no TensorRT engine behind it; copy or export it again"
    return "is no TensorRT engine, or is damaged: it does not begin as one does"
