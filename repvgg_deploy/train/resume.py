"""A run's last checkpoint read back, and whether this run is that one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import read_error
from ..sidecar import to_json
from .recipe import Recipe
from .record import TrainRecord

#: Settings of a recipe that change speed and memory alone.
_NEUTRAL = ("recompute",)


def settings(record: TrainRecord, recipe: Recipe) -> dict[str, Any]:
    """What two runs have in common when one goes on with the other: plain values."""
    data = asdict(record.data)
    kept = ("sha256", "val_sha256", "num_classes", "preprocessing", "augmentation")
    chosen = {key: value for key, value in recipe.to_dict().items() if key not in _NEUTRAL}
    found = {
        "kind": record.kind,
        "architecture": record.architecture,
        "spec": record.spec,
        "recipe": chosen,
        "data": {key: data[key] for key in kept},
        "initial": None if record.initial is None else record.initial.sha256,
        "qat": record.qat,
    }
    plain: dict[str, Any] = json.loads(to_json(found))  # lists, not tuples, as they compare unequal
    return plain


def read_last(path: Path) -> dict[str, Any]:
    """The content of last.pth, not checked any further than that its settings are plain values.

    Raises:
        UserError: it cannot be read, is damaged, or no checkpoint of a run.
    """
    content = read_saved(path)
    if not isinstance(content.get("settings"), dict):
        raise damaged(path)
    try:
        json.dumps(content["settings"])  # tensors, say, compare as no values do
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged(path) from error
    return content


def read_saved(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a run, not checked any further.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:  # a damaged file makes torch's reader stumble in many ways
        raise damaged(path) from error
    if not isinstance(content, dict):
        raise damaged(path)
    return content


def damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: is damaged or not what a training run saved; start anew in another folder."
    )


def check_settings(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with another run.

    Raises:
        UserError: names the settings that differ, or the architectures.
    """
    if (saved.get("architecture"), saved.get("spec")) != (wanted["architecture"], wanted["spec"]):
        was, now = _short(saved.get("architecture")), wanted["architecture"]
        other = f"{was}, and this run is of {now}" if was != now else f"another kind of {now}"
        raise UserError(
            f"{path}: is of {other}; resume with the same architecture, or choose another folder "
            "by --out."
        )
    before, after = dict(_flat(saved)), dict(_flat(wanted))
    names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    if names:
        listed = ", ".join(
            f"{n[:50]} {_short(before.get(n))} (now {_short(after.get(n))})" for n in names[:3]
        )
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
            f"{path}: is of a run with other settings: {listed}{more}; resume with the same ones, "
            "or choose another folder by --out."
        )


def _short(value: Any) -> str:
    """A file may hold anything, and a sentence is one line."""
    return str(value)[:200]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``recipe.lr`` and its value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
