"""One process of several that train: ``python -m tests.training_process FOLDER``, in the
environment that torchrun gives. test_train_processes.py starts them and reads what they leave."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from repvgg_deploy.errors import RepvggDeployError, UserError
from repvgg_deploy.train.batch import Batch, Batches
from repvgg_deploy.train.interruption import Stopped
from repvgg_deploy.train.loop import run_training
from repvgg_deploy.train.observer import Silent
from repvgg_deploy.train.processes import Launch, start
from repvgg_deploy.train.recipe import Recipe
from repvgg_deploy.train.run_folder import RunFolder

from .training import RECIPE, make_task

#: Everything that could tell two processes from one.
EXACT = replace(RECIPE, mixup=0.4, label_smoothing=0.1, ema=0.9, recompute=True)
PLAIN = replace(RECIPE, epochs=2)
DTYPE = torch.float64


@dataclass
class Spoiled:
    """Batches with something that happens at one of them, counted from 0, in one process."""

    batches: Batches
    at: int
    what: str

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches.epoch(epoch, first), first):
            here = epoch * len(self) + number == self.at
            if here and self.what == "signal":
                signal.raise_signal(signal.SIGINT)
            if here and self.what == "error":
                raise UserError("img.png: is damaged; take it out.")
            nan = torch.full_like(batch.images, torch.nan)
            yield Batch(nan, batch.labels) if here and self.what == "nan" else batch


def run(
    folder: Path, recipe: Recipe, resume: bool = False, spoil: tuple[int, str] | None = None
) -> str:
    """Train; how it ended, in words."""
    among = start(Launch("cpu"), recipe.precision)
    task = make_task(recipe, among=among, dtype=DTYPE)
    if spoil and among.rank == among.world - 1:
        task = replace(task, batches=Spoiled(task.batches, *spoil))
    try:
        run_training(task, recipe, RunFolder(folder), among, Silent(), resume)
    except (RepvggDeployError, Stopped) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def disk_full_at_first(folder: Path) -> str:
    """The first process cannot save."""

    def fail(self: RunFolder, *given: object) -> None:
        raise UserError(f"{self.last}: {os.strerror(errno.ENOSPC)}")

    before, RunFolder.save = RunFolder.save, fail  # type: ignore[method-assign]
    try:
        return run(folder, PLAIN)
    finally:
        RunFolder.save = before  # type: ignore[method-assign]


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    ends = {
        "exact": run(out / "exact", EXACT),
        "nan": run(out / "nan", PLAIN, spoil=(4, "nan")),
        "signal": run(out / "signal", EXACT, spoil=(4, "signal")),
        "resumed": run(out / "signal", EXACT, resume=True),
        "full": disk_full_at_first(out / "full"),
    }
    ends["error"] = run(out / "error", PLAIN, spoil=(4, "error"))  # last: it breaks the connection
    (out / f"{rank}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
