"""What humans read goes to stderr, so that stdout is free for results and --json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..archives import size_text
from ..signals import uninterrupted as uninterrupted


def say(line: str) -> None:
    """A line for the human."""
    click.echo(visible(line), err=True)


def visible(text: str) -> str:
    """Escape codes that a file has in its names are shown, not sent to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def print_json(data: Any) -> None:
    """A result for a machine, on stdout."""
    from ..sidecar import to_json

    click.echo(to_json(data))


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __str__(self) -> str:
        return f"{time.perf_counter() - self._start:.1f} s"


@contextmanager
def spinner(text: str) -> Iterator[Stopwatch]:
    """A sign of life with the elapsed time, where stderr is a terminal."""
    with uninterrupted():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(text), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bar.add_task(text)
        yield Stopwatch()


def made(path: Path, elapsed: Stopwatch, verdict: str) -> None:
    """The line that ends a step: what was made, how large, how long it took, the verdict."""
    say(f"{path}  {size_text(path.stat().st_size)}  {elapsed}  {verdict}")
