"""What the builder says: each warning once to the user, all of it to a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import whole_file


class Heard:
    """Called with the severity and the text of each message; ``warn`` gets each warning once."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.log: list[str] = []
        self.warnings: list[str] = []
        self._warn, self._start = warn, time.perf_counter()

    def __call__(self, severity: str, message: str) -> None:
        seconds = time.perf_counter() - self._start
        self.log.append(f"{seconds:10.3f} s  {severity:7}  {message}\n")
        if severity == "warning" and message not in self.warnings:
            self.warnings.append(message)
            self._warn(message)


@contextmanager
def log_file(path: Path | None, heard: Heard) -> Iterator[None]:
    """Writes the log at the end, of a failed build above all; None: no log."""
    if path is None:
        yield
        return
    failure: BaseException | None = None
    with whole_file(path) as temporary:
        try:
            yield
        except BaseException as error:
            failure = error
        temporary.write_text("".join(heard.log), encoding="utf-8")
    if failure is not None:
        raise failure
