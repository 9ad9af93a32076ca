"""Accuracy, as ``evaluate --json`` printed it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...evaluation.tally import Scores
from ...rebuild import read_json, rebuild
from .files import Found
from .record import Accuracy, Evaluation


def read_evaluation(path: Path, files: list[Found]) -> Evaluation:
    """Of the networks that are files of this lineage.

    Raises:
        UserError: no such file, it is nothing that evaluate prints, or of other files alone.
    """
    try:
        data = read_json(path, dict[str, Any])
        networks = [_network(one) for one in data["networks"]]
        whole = rebuild(tuple[str, str], [data["data"], data["sha256"]])
        samples = rebuild(int, data["samples"])
        preprocessing = rebuild(dict[str, Any], data["preprocessing"])
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; make it with evaluate --json > {path}.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: is not what evaluate --json prints ({str(error)[:200]}); run that again."
        ) from error
    places = {_resolved(found.path): Path(found.entry.path).name for found in files}
    ours = [
        Accuracy(**{**vars(one), "file": places[_resolved(Path(one.file))]})
        for one in networks
        if _resolved(Path(one.file)) in places
    ]
    if not ours:
        raise UserError(f"{path}: is of none of this model's files; evaluate the model itself.")
    return Evaluation(str(path), *whole, samples, preprocessing, ours)


def _network(data: dict[str, Any]) -> Accuracy:
    scores = rebuild(Scores, {"sqnr_db": math.inf, **_without_none(data["scores"])})
    name, place, runtime = (rebuild(str, data[key]) for key in ("name", "path", "runtime"))
    return Accuracy(
        name=name,
        file=place,
        runtime=runtime,
        samples=scores.samples,
        top1=scores.top1,
        top5=scores.top5,
        agreement=scores.agreement,
        difference=scores.difference,
        sqnr_db=scores.sqnr_db if math.isfinite(scores.sqnr_db) else None,
    )


def _without_none(scores: dict[str, Any]) -> dict[str, Any]:
    """No difference at all is infinitely many decibel, which JSON has as null."""
    if scores["sqnr_db"] is not None:
        return scores
    return {key: value for key, value in scores.items() if key != "sqnr_db"}


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # no path at all, or one in a ring
        return path
