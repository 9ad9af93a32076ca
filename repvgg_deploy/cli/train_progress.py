"""What a training run says while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..report.train import epoch_line
from ..train.record import Epoch
from .console import say


class TrainingDisplay:
    """A line an epoch, and on a terminal a bar for the whole run. An Observer."""

    def __init__(self, bars: Progress, epochs: int) -> None:
        self._bars, self._epochs, self._steps = bars, epochs, 1
        self._task = bars.add_task("training", total=None, figures="")

    def started(self, step: int, steps: int) -> None:
        self._steps = max(1, steps)
        if step:
            say(f"going on after step {step} of {steps}")
        self._bars.update(self._task, completed=step, total=steps)

    def step(self, step: int, loss: float | None, images_per_second: float | None) -> None:
        epoch = min(self._epochs, 1 + (step - 1) * self._epochs // self._steps)
        figures = f"step {step}/{self._steps}"
        if loss is not None and images_per_second is not None:
            figures += f"  loss {loss:.4f}  {images_per_second:,.0f} img/s"
        text = f"epoch {epoch}/{self._epochs}"
        self._bars.update(self._task, completed=step, description=text, figures=figures)

    def epoch(self, epoch: Epoch) -> None:
        say(epoch_line(epoch, self._epochs))

    def saved(self, path: Path, step: int) -> None:
        """An epoch's line says enough."""


@contextmanager
def training_display(epochs: int) -> Iterator[TrainingDisplay]:
    """The bar goes at the end, the lines stay."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        yield TrainingDisplay(bars, epochs)
