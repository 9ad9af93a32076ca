"""Who is told how far training is: progress displays."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from .record import Epoch


class Observer(Protocol):
    """Called in the first process only."""

    def started(self, step: int, steps: int) -> None:
        """``step`` of ``steps`` are done, by an earlier run."""

    def step(self, step: int, loss: float | None, images_per_second: float | None) -> None:
        """``step`` are done now; the figures are those last looked at (None: not yet), as on a GPU
        not every step is waited for."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done and validated."""

    def saved(self, path: Path, step: int) -> None:
        """``path`` holds the run after ``step`` steps."""


class Silent:
    """Tells nobody."""

    def started(self, step: int, steps: int) -> None:
        pass

    def step(self, step: int, loss: float | None, images_per_second: float | None) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        pass

    def saved(self, path: Path, step: int) -> None:
        pass
