"""Beside every artifact its sidecar ``<file>.json``: written with it, and checked against it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .artifacts import (
    EngineArtifact,
    FusedArtifact,
    FusedOnnxArtifact,
    OnnxArtifact,
    QuantizedArtifact,
    Source,
)
from .errors import UserError
from .files import sha256_file
from .records import check
from .transaction import Transaction, transaction, whole_file

SCHEMA = 3

#: Sidecars that name one another in a ring end here.
_LONGEST_LINEAGE = 8
#: In bytes. The largest of ours, of a graph of 10,000 nodes, takes a few million.
_LARGEST_SIDECAR = 1 << 25

A = TypeVar("A", FusedArtifact, OnnxArtifact, EngineArtifact, FusedOnnxArtifact, QuantizedArtifact)


def sidecar_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def to_json(data: Any) -> str:
    """JSON text of plain values, dataclasses and paths; NaN and infinity become null."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def _plain(data: Any) -> Any:
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return _plain({f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return str(data) if isinstance(data, Path) else data


def load_sidecar(path: Path) -> dict[str, Any]:
    """The JSON object of a sidecar, not checked any further: of a file alone, and never endless.

    Raises:
        OSError, ValueError, TypeError, RecursionError: says why there is none.
    """
    sidecar = sidecar_path(path)
    if sidecar.exists() and not sidecar.is_file():
        raise ValueError("it is no file")
    with sidecar.open("rb") as stream:
        text = stream.read(_LARGEST_SIDECAR + 1)
    if len(text) > _LARGEST_SIDECAR:
        raise ValueError("it is too large for a sidecar")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("it is no JSON object")
    return data


def recorded_source(artifact: Path) -> Source | None:
    """What an artifact was made from; None where there is none, or nothing that could be used."""
    try:
        source = load_sidecar(artifact)["source"]
        return Source(str(source["path"]), str(source["sha256"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def lineage(path: Path) -> list[Source]:
    """What a file was made from, and that from, as the sidecars say: back to the checkpoint."""
    found: list[Source] = []
    while len(found) < _LONGEST_LINEAGE and (source := recorded_source(path)) is not None:
        found.append(source)
        if Path(source.path).name != source.path:
            break  # not beside it: the checkpoint, or a file from elsewhere
        path = path.with_name(source.path)
    return found


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(to_json(data) + "\n")


def store(
    path: Path,
    write: Callable[[Path], object],
    describe: Callable[[str], A],
    beside: Mapping[Path, Callable[[Path], object]] | None = None,
) -> A:
    """Write an artifact, its sidecar and what goes ``beside`` them, all or none of them.

    Raises:
        UserError: as transaction.
    """
    with transaction(path.parent) as change:
        return prepare(change, path, write, describe, beside)


def prepare(
    change: Transaction,
    path: Path,
    write: Callable[[Path], object],
    describe: Callable[[str], A],
    beside: Mapping[Path, Callable[[Path], object]] | None = None,
) -> A:
    """The same as a part of ``change``.

    ``write`` fills the file at the temporary path that it gets, and so does each of ``beside``;
    ``describe`` makes the artifact's record from the SHA-256 of what was written.
    """
    for other, write_other in (beside or {}).items():
        write_other(change.place(other))
    temporary = change.place(path)
    write(temporary)
    artifact = describe(sha256_file(temporary))
    prepare_sidecar(change, path, artifact)
    return artifact


def prepare_sidecar(change: Transaction, path: Path, artifact: A) -> None:
    """Write the sidecar alone as a part of ``change``."""
    text = to_json({"schema": SCHEMA, **dataclasses.asdict(artifact)})
    change.place(sidecar_path(path)).write_text(text + "\n")


def check_bytes(path: Path) -> None:
    """Of a file of any kind: if it has a sidecar, that is its own.

    Raises:
        UserError: the file has changed since, or the sidecar is damaged.
    """
    try:
        recorded = load_sidecar(path).get("sha256")
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{sidecar_path(path)}: is damaged ({str(error)[:200]}); remove it, or run the step "
            "that makes it again."
        ) from error
    if recorded != sha256_file(path):
        raise UserError(
            f"{path}: is not the file that {sidecar_path(path).name} describes; remove that, or "
            "run the step that makes it again."
        )


def read_sidecar(path: Path, kind: type[A]) -> A:
    """The sidecar of ``path``, checked against the file's bytes.

    Raises:
        UserError: no file, no sidecar, a damaged sidecar, or a file that changed since.
    """
    sidecar = sidecar_path(path)
    try:
        data = load_sidecar(path)
        if data.pop("schema") != SCHEMA:
            raise UserError(f"{sidecar}: is of another version of this tool; run its step again.")
        if foreign := set(data) - {field.name for field in dataclasses.fields(kind)}:
            raise ValueError(f"{min(foreign)!r} does not belong there")
        artifact = kind(**{**data, "source": Source(**data["source"])})
        check(artifact, kind)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: no such file; run the step that makes it again."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{sidecar}: is damaged ({str(error)[:200]}); run the step that makes it again."
        ) from error
    if not path.is_file() or sha256_file(path) != artifact.sha256:
        raise UserError(
            f"{path}: is not the file that {sidecar.name} describes; "
            "run the step that makes it again."
        )
    return artifact
