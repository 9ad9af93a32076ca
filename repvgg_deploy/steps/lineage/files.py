"""The files of a model's folder, each held against its sidecar and what it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts import FusedArtifact, Source
from ...engine.engine_file import is_named_engine
from ...errors import UserError
from ...files import is_onnx, sha256_file
from ...sidecar import load_sidecar, sidecar_path
from ...workspace import ModelFolder
from ..chain import find_source, folder_files, read_artifact
from ..chain_contents import Artifact, contradiction
from .parts import FileEntry, Status

_STAGES = ("fused weights", "ONNX model", "engine")
_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


@dataclass(frozen=True)
class Found:
    """A file beside its record: ``artifact`` is None where it has none that holds, ``origin`` the
    file that it was made from, where that is here and still the same."""

    path: Path
    entry: FileEntry
    artifact: Artifact | None = None
    origin: Path | None = None


def find_files(folder: ModelFolder) -> list[Found]:
    """Roots first, then the folder's files in the order of the pipeline."""
    copies = (folder.fused_pth, folder.fused_pkl)
    files = [_judge(path) for path in folder_files(folder) if path not in copies]
    files.sort(key=lambda found: (_STAGES.index(found.entry.kind), _place(found.entry)))
    names = {found.entry.name for found in files}
    roots: dict[str, Found] = {}
    for found in files:
        if found.artifact is not None and found.entry.source not in names:
            root = _root(found.path.parent, found.artifact)
            roots.setdefault(root.entry.name, root)
    return [*roots.values(), *_spread_staleness(files)]


def _place(entry: FileEntry) -> int:
    known = entry.precision in _PRECISIONS
    return _PRECISIONS.index(entry.precision or "") if known else len(_PRECISIONS)


def _judge(path: Path) -> Found:
    raw = _raw(path)
    if not sidecar_path(path).exists():
        return Found(path, _entry(path, raw, "unrecorded", "no sidecar says what it is"))
    if not path.is_file():
        return Found(path, _entry(path, raw, "missing", "only its sidecar is here"))
    try:
        artifact = read_artifact(path)
        differs = contradiction(path, artifact)
    except UserError as error:
        differs, artifact = str(error).removeprefix(f"{path}: "), None
    if artifact is None or differs:
        return Found(path, _entry(path, raw, "differs", differs))
    origin, stale = find_source(path, artifact.source)
    status: Status = "stale" if stale else "intact"
    entry = _entry(path, raw, status, stale)
    return Found(path, entry, artifact, None if stale else origin)


def _spread_staleness(files: list[Found]) -> list[Found]:
    """What was made from a file that is stale or not what it should be is stale as well."""
    bad: dict[str, str] = {}
    spread: list[Found] = []
    for found in files:
        entry, source = found.entry, found.entry.source
        if entry.status == "intact" and source in bad:
            detail = f"{source}, which it was made from, {bad[source]}"
            entry = _changed(entry, detail)
            found = Found(found.path, entry, found.artifact)
        if entry.status == "stale":
            bad[entry.name] = "was made from something that has changed since"
        elif entry.status == "differs":
            bad[entry.name] = "is not what its sidecar says"
        spread.append(found)
    return spread


def _changed(entry: FileEntry, detail: str) -> FileEntry:
    return FileEntry(**{**vars(entry), "status": "stale", "detail": detail})


def _root(folder: Path, artifact: Artifact) -> Found:
    """The checkpoint, or the ONNX model from elsewhere, that nothing here says the origin of."""
    source: Source = artifact.source
    path, problem = find_source(folder / artifact.file, source)
    status: Status = "missing" if path is None else "differs" if problem else "intact"
    detail = "it is not here any more" if path is None else problem
    is_checkpoint = isinstance(artifact, FusedArtifact)
    entry = FileEntry(
        name=source.path,
        kind="checkpoint" if is_checkpoint else "ONNX model",
        precision=None,
        path=source.path,
        source=None,
        status=status,
        detail=detail,
        sha256=source.sha256,
        bytes=None if path is None else path.stat().st_size,
        tool=None,
        created=None,
    )
    return Found(folder / source.path, entry, None, path if status == "intact" else None)


def _raw(path: Path) -> dict[str, Any]:
    """What a sidecar says before it is checked; a file that is not as recorded is listed too."""
    try:
        return load_sidecar(path)
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _entry(path: Path, raw: dict[str, Any], status: Status, detail: str) -> FileEntry:
    source = raw.get("source")
    return FileEntry(
        name=path.name,
        kind=_kind(path),
        precision=_text(raw, "precision") or ("fp32" if _kind(path) == "fused weights" else None),
        path=str(path),
        source=_text(source, "path") if isinstance(source, dict) else None,
        status=status,
        detail=detail.removesuffix("."),
        sha256=_text(raw, "sha256") or (sha256_file(path) if path.is_file() else None),
        bytes=path.stat().st_size if path.is_file() else None,
        tool=_text(raw, "tool"),
        created=_text(raw, "created"),
    )


def _kind(path: Path) -> str:
    if is_named_engine(path):
        return "engine"
    return "ONNX model" if is_onnx(path) else "fused weights"


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    return value if isinstance(value, str) else None
