"""Progress displays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..steps.contest import Progress as Report


@contextmanager
def bench_progress() -> Iterator[Report]:
    """One bar for each runtime and batch size, where stderr is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[tuple[str, int], TaskID] = {}

        def report(runtime: str, batch: int, share: float) -> None:
            key = (runtime, batch)
            if key not in tasks:
                tasks[key] = bars.add_task(f"{runtime}, batch {batch}", total=1.0)
            bars.update(tasks[key], completed=share)

        yield report


@contextmanager
def share_progress(text: str) -> Iterator[Callable[[float], None]]:
    """One bar for a share from 0 to 1, where stderr is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task(text, total=1.0)
        yield lambda share: bars.update(task, completed=share)
