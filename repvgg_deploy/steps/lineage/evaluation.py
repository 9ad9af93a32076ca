"""Accuracy, as ``evaluate`` left it in the model's folder, or as its ``--json`` printed it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...evaluation.tally import Scores
from ...rebuild import read_json, rebuild
from ...sqnr import LOWEST, from_json
from ...workspace import ModelFolder
from .files import Found
from .parts import FileEntry
from .record import Absent, Accuracy, Evaluation


def read_evaluation(path: Path, files: list[Found]) -> Evaluation:
    """A record from elsewhere, of the networks in it that are files of this lineage.

    Raises:
        UserError: no such file, it is nothing that evaluate prints, or of other files alone.
    """
    ours = {_resolved(found.path): found.entry for found in files}
    return _read(path, lambda place: ours.get(_resolved(Path(place))))


def kept_evaluation(folder: ModelFolder, files: list[Found]) -> Evaluation | Absent:
    """What evaluate left in the folder; it knows the files by their names, wherever it ran."""
    ours = {Path(found.entry.name).name: found.entry for found in files}
    reason = "nothing was evaluated yet"
    if folder.evaluation.exists():
        try:
            return _read(folder.evaluation, lambda place: ours.get(Path(place).name))
        except UserError as error:
            reason = str(error).removesuffix(".")
    place = shlex.join(["--model", folder.name, "--engines", str(folder.path.parent)])
    return Absent("accuracy", reason, f"repvgg-deploy evaluate --data IMAGES {place}")


def _read(path: Path, find: Callable[[str], FileEntry | None]) -> Evaluation:
    try:
        data = read_json(path, dict[str, Any])
        networks = [
            _network(one, entry)
            for one in data["networks"]
            if (entry := find(rebuild(str, one["path"]))) is not None
        ]
        whole = rebuild(tuple[str, str], [data["data"], data["sha256"]])
        samples = rebuild(int, data["samples"])
        preprocessing = rebuild(dict[str, Any], data["preprocessing"])
        left_out = list(rebuild(dict[str, str], data["left_out"]).values())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; make it with evaluate --json > {path}.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: is not what evaluate --json prints ({str(error)[:200]}); run that again."
        ) from error
    if not networks:
        raise UserError(f"{path}: is of none of this model's files; evaluate the model itself.")
    return Evaluation(str(path), *whole, samples, preprocessing, networks, left_out)


def _network(data: dict[str, Any], entry: FileEntry) -> Accuracy:
    sqnr_db = rebuild(float | None, data["scores"]["sqnr_db"])  # type: ignore[arg-type]
    scores = rebuild(Scores, {**data["scores"], "sqnr_db": from_json(sqnr_db)})
    sha256 = data.get("sha256")
    return Accuracy(
        name=rebuild(str, data["name"]),
        file=Path(entry.name).name,
        changed=None if sha256 is None else rebuild(str, sha256) != entry.sha256,
        runtime=rebuild(str, data["runtime"]),
        samples=scores.samples,
        top1=scores.top1,
        top5=scores.top5,
        agreement=scores.agreement,
        difference=scores.difference,
        # earlier versions wrote null for NaN too
        sqnr_db=LOWEST if scores.not_finite and sqnr_db is None else sqnr_db,
    )


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # no path at all, or one in a ring
        return path
