"""The files of a run: last.pth, best.pth, steps.csv, train.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import read_error, sha256_file, write_error
from ..redo_log import recover
from ..sidecar import to_json
from ..transaction import transaction, whole_file
from .record import Epoch, TrainRecord

_HEADER = "step,epoch,lr,loss\n"


@dataclass(frozen=True)
class StepLine:
    """A line of steps.csv; ``step`` and ``epoch`` count from 1."""

    step: int
    epoch: int
    lr: float
    loss: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss)

    def __str__(self) -> str:
        return f"{self.step},{self.epoch},{self.lr!r},{self.loss!r}\n"


class RunFolder:
    """Where they are, and how they are written: whole or not at all, but for steps.csv, which
    grows with every step that is looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.pth"
        self.best = path / "best.pth"
        self.steps = path / "steps.csv"
        self.record = path / "train.json"
        self._made: list[Path] = []

    def check_free(self) -> None:
        """UserError where it holds a run."""
        recover(self.path)
        if self.last.exists():
            raise UserError(
                f"{self.path}: holds a run already (last.pth); go on with it by --resume, or "
                "choose another folder by --out."
            )
        if self.best.exists():
            raise UserError(
                f"{self.path}: holds a best.pth, and no last.pth to go on with; take it away, or "
                "choose another folder by --out."
            )

    def check_there(self) -> None:
        """UserError where it holds no run to go on with."""
        recover(self.path)
        if not self.last.is_file():
            raise UserError(
                f"{self.last}: no such file: there is no run to go on with; leave out --resume."
            )

    def check_best(self, best: Epoch) -> None:
        """UserError where best.pth is gone, which held ``best``."""
        if not self.best.is_file():
            raise UserError(
                f"{self.best}: no such file, and epoch {best.epoch}, the best so far, was in it; "
                "put it back, or start anew in another folder."
            )

    def claim(self) -> None:
        """Make the folder for a new run.

        Raises:
            UserError: it holds a run, or cannot be made.
        """
        self.check_free()
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with whole_file(self.steps) as temporary:
            temporary.write_text(_HEADER)

    def forget_after(self, step: int) -> None:
        """Take the lines of steps beyond ``step`` off steps.csv, and what is no line.

        Raises:
            UserError: it cannot be read or written.
        """
        try:
            lines = self.steps.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise read_error(self.steps, error) from error
        kept = [line for line in lines[1:] if _step_of(line) <= step]
        with whole_file(self.steps) as temporary:
            temporary.write_text("".join([_HEADER, *(f"{line}\n" for line in kept)]))

    def add(self, lines: Sequence[StepLine]) -> None:
        """Append to steps.csv.

        Raises:
            UserError: the disk is full.
        """
        try:
            with self.steps.open("a") as stream:
                stream.writelines(map(str, lines))
        except OSError as error:
            raise write_error(self.steps, error) from error

    def save(
        self,
        checkpoints: Mapping[Path, Mapping[str, Any]],
        record: TrainRecord,
        epochs: Sequence[Epoch],
        stopped: str,
    ) -> None:
        """Write checkpoints (last.pth, best.pth) and train.json, with the digests of all that are
        there then: all of it or nothing.

        Raises:
            UserError: the disk is full.
        """
        with transaction(self.path) as change:
            at = {path: path for path in (self.last, self.best) if path.exists()}
            for path, content in checkpoints.items():
                at[path] = change.place(path)
                _save(at[path], content)
            digests = {
                path.name: sha256_file(at[path]) for path in (self.last, self.best) if path in at
            }
            filled = replace(record, epochs=list(epochs), stopped=stopped, checkpoints=digests)
            change.place(self.record).write_text(f"{to_json(filled)}\n")

    def remove_if_unused(self) -> None:
        """Remove what :meth:`claim` made, where nothing was saved since."""
        if self.last.exists() or self.record.exists():
            return
        with suppress(OSError):
            self.steps.unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()


def _save(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("wb") as stream:
        try:
            torch.save(dict(content), stream)
        except RuntimeError as error:  # torch's own, raised while it handles the write's error
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _step_of(line: str) -> float:
    """Infinity for what is no line: the last of a run that was killed may be torn."""
    fields = line.split(",")
    try:
        float(fields[3])
        return int(fields[0])
    except (IndexError, ValueError):
        return float("inf")
