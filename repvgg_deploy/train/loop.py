"""From a network and batches to a trained run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckFailed, UserError
from .interruption import Interruption, Stopped
from .observer import Observer, Silent
from .processes import Processes
from .recipe import Recipe
from .record import Epoch
from .run import Run
from .run_folder import RunFolder
from .task import Task


@dataclass(frozen=True)
class Finished:
    """``best`` is the epoch in ``best_path``; None where nothing was validated."""

    epochs: list[Epoch]
    best: Epoch | None
    last: Path
    best_path: Path | None


def run_training(
    task: Task,
    recipe: Recipe,
    folder: RunFolder,
    processes: Processes,
    observer: Observer,
    resume: bool = False,
) -> Finished:
    """Train ``task`` to the end of ``recipe``; ``resume`` goes on with the run in ``folder``.

    Raises:
        UserError: the folder holds a run, or another one than this; settings that do not go
            together; a full disk. What was saved before stands.
        CheckFailed: a loss that is not finite.
        Stopped: Ctrl-C or SIGTERM; the run is saved at its current step.
    """
    check_recipe(recipe, processes.world)
    told = observer if processes.rank == 0 else Silent()
    with processes.ending_together(), Interruption() as interruption:
        run = Run(task, recipe, folder, processes, told, interruption)
        if resume:
            run.resume()
        else:
            processes.first_only(folder.claim)
        told.started(run.progress.step, recipe.epochs * run.length)
        try:
            while len(run.progress.epochs) < recipe.epochs:
                run.train_epoch()
                run.end_epoch()
        except Stopped as stop:
            run.save(f"interrupted after step {stop.step}")
            raise
        except CheckFailed as error:
            run.write_record(str(error))
            raise
        except BaseException:
            if processes.rank == 0:
                folder.remove_if_unused()
            raise
    best = run.progress.best()
    best_path = None if best is None else folder.best
    return Finished(run.progress.epochs, best, folder.last, best_path)


def check_recipe(recipe: Recipe, world: int) -> None:
    """Of settings that do not go together, or not with ``world`` processes.

    Raises:
        UserError: names them.
    """
    if recipe.batch % world:
        raise UserError(
            f"--batch {recipe.batch} cannot be divided among {world} processes; choose a multiple."
        )
    part = recipe.batch // world
    if recipe.mixup and part % 2:
        raise UserError(
            f"--mixup mixes pairs of images, and with --batch {recipe.batch} a process has {part}; "
            "choose a batch of an even number for each."
        )
    if recipe.warmup_epochs >= recipe.epochs:
        raise UserError(
            f"a warm-up of {recipe.warmup_epochs:g} epochs leaves none of {recipe.epochs}; choose "
            "a shorter one."
        )
