"""The parts of a training run: an epoch's steps, its end, saving, resuming."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from ..data.worker_pool import WorkersEnded
from ..errors import CheckFailed
from .batch import Batch
from .interruption import Interruption, Stopped
from .losses import Losses
from .observer import Observer
from .processes import Processes
from .progress import Progress, top1
from .recipe import Recipe
from .record import Epoch
from .resume import check_settings, damaged, read_last, settings
from .run_folder import RunFolder
from .schedule import learning_rate
from .state import State
from .task import Task
from .validation import NOT_VALIDATED, Validation, validate

#: Steps between looks at the losses: on a GPU a look waits for it.
_LOOK_EVERY = {"cpu": 1, "cuda": 20}


class Run:
    """All processes call the same methods in the same order."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        folder: RunFolder,
        processes: Processes,
        observer: Observer,
        interruption: Interruption,
    ) -> None:
        self.task, self.recipe, self.folder = task, recipe, folder
        self.processes, self.observer, self.interruption = processes, observer, interruption
        self.length = len(task.batches)
        self.progress = Progress()
        self._settings = settings(task.record, recipe)
        self._state = State(task, recipe, processes)
        self._losses = Losses(processes)
        self._saved_step: int | None = None
        self._looked_step, self._looked_at = 0, 0.0
        self._loss: float | None = None
        self._rate: float | None = None

    def resume(self) -> None:
        """Go on with what last.pth holds.

        Raises:
            UserError: it is missing, damaged, or of another run; or best.pth is gone.
        """
        self.folder.check_there()
        path = self.folder.last
        content = read_last(path)
        check_settings(path, content["settings"], self._settings)
        try:
            self.progress = Progress.read(content, self.length)
            self._state.restore(content, self.progress.step)
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path) from error
        if best := self.progress.best():
            self.folder.check_best(best)
        self._saved_step = self.progress.step
        self.processes.first_only(lambda: self.folder.forget_after(self.progress.step))

    def train_epoch(self) -> None:
        """The steps of an epoch that are left.

        Raises:
            CheckFailed: a loss is not finite.
            Stopped: a signal arrived; between two steps.
        """
        progress, epoch = self.progress, len(self.progress.epochs)
        end = (epoch + 1) * self.length
        if progress.step == end:  # interrupted before it was validated
            return
        every = _LOOK_EVERY[self.processes.device.type]
        self._state.network.train()
        self._looked_step, self._looked_at = progress.step, time.perf_counter()
        batches = self.task.batches.epoch(epoch, progress.step - epoch * self.length)
        for batch in self._stoppable(batches):
            lr = learning_rate(progress.step, self.length, self.recipe)
            loss = self._state.advance(batch, progress.step, lr)
            progress.step += 1
            self._losses.add(progress.step, epoch + 1, lr, loss)
            if progress.step == end or progress.step % every == 0 or self._stop_alone():
                self._look()
            self.observer.step(progress.step, self._loss, self._rate)
        if progress.step != end:
            raise RuntimeError(f"epoch {epoch} ended {end - progress.step} batches early")

    def end_epoch(self) -> None:
        """Validate, save, tell.

        Raises:
            CheckFailed: the weights are not finite.
            UserError: the disk is full.
            Stopped: a signal arrived.
        """
        progress = self.progress
        self._state.check_finite(progress.step)
        weights = self._validate(self._state.network)
        average = self._validate(self._state.averaged)
        lr = learning_rate(progress.step - 1, self.length, self.recipe)
        images = self.recipe.batch * self.length
        done = progress.end_epoch(lr, self.length, images, weights, average)
        best = progress.best() is done
        self.save(best=self._best(done) if best else None)
        self.observer.epoch(done)

    def save(self, stopped: str = "", best: Mapping[str, Any] | None = None) -> None:
        """last.pth, best.pth where it is given, and train.json, together. Every loss up to here was
        looked at.

        Raises:
            CheckFailed: the weights are not finite; nothing is written.
            UserError: the disk is full; what was saved before stands.
        """
        self._state.check_finite(self.progress.step)
        self.processes.first_only(lambda: self._write(stopped, best))
        self._saved_step = self.progress.step
        self.observer.saved(self.folder.last, self.progress.step)

    def write_record(self, stopped: str) -> None:
        """train.json.

        Raises:
            UserError: the disk is full.
        """
        record, epochs = self.task.record, self.progress.epochs
        self.processes.first_only(lambda: self.folder.save({}, record, epochs, stopped))

    def _write(self, stopped: str, best: Mapping[str, Any] | None) -> None:
        content = {**self._state.content(), **self.progress.content(), "settings": self._settings}
        checkpoints = {self.folder.last: content}
        if best is not None:
            checkpoints[self.folder.best] = dict(best)
        self.folder.save(checkpoints, self.task.record, self.progress.epochs, stopped)

    def _best(self, done: Epoch) -> dict[str, Any]:
        weights = {self.task.state_key: self._state.deployed()}
        return {**weights, "epoch": done.epoch, "top1": top1(done)}

    def _look(self) -> None:
        """At the losses since the last time."""
        lines, stop = self._losses.look(self.interruption.arrived)
        now = time.perf_counter()
        seconds, steps = now - self._looked_at, self.progress.step - self._looked_step
        self._looked_step, self._looked_at = self.progress.step, now
        self.progress.seconds += seconds
        self.progress.loss_sum += sum(line.loss for line in lines)
        self._loss, self._rate = lines[-1].loss, self.recipe.batch * steps / seconds
        if self.processes.rank == 0:
            self.folder.add(lines)
        if not lines[-1].finite:
            raise CheckFailed(
                f"the loss of step {lines[-1].step} is {lines[-1].loss}: training diverged; "
                f"{self._kept()} Lower --lr, or give it a longer warm-up."
            )
        if stop:
            raise Stopped(self.progress.step)

    def _kept(self) -> str:
        if self._saved_step is None:
            return "no checkpoint was saved before."
        return f"{self.folder.last} holds the run after step {self._saved_step}."

    def _validate(self, network: nn.Module | None) -> Validation:
        if network is None or self.task.validation is None:
            return NOT_VALIDATED
        classes = self.task.record.data.num_classes
        batches = self._stoppable(self.task.validation())
        return validate(network, batches, classes, self.processes, self._stop_if_asked)

    def _stoppable(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """A signal to all processes of a job ends those that decode, but is no fault of theirs."""
        try:
            yield from batches
        except WorkersEnded:
            self._stop_if_asked()
            raise

    def _stop_alone(self) -> bool:
        """Several processes agree on a step when they look at the losses."""
        return self.interruption.arrived and self.processes.world == 1

    def _stop_if_asked(self) -> None:
        if self._stop_alone():
            if self._losses.pending:
                self._look()
            raise Stopped(self.progress.step)
