"""Files beside a build: the builder's timing cache, and a log of all that it said."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..sidecar import sidecar_path
from ..transaction import whole_file


@dataclass(frozen=True)
class Companions:
    """None: not asked for."""

    timing_cache: Path | None = None
    build_log: Path | None = None


def check_companions(companions: Companions, onnx: Path, engine: Path) -> None:
    """Refuse a timing cache or log in the place of another file; an earlier log may go.

    Raises:
        UserError: see above.
    """
    taken = {path.resolve() for path in (onnx, sidecar_path(onnx), engine, sidecar_path(engine))}
    for option, path in (
        ("--timing-cache", companions.timing_cache),
        ("--build-log", companions.build_log),
    ):
        if path is None:
            continue
        if path.resolve() in taken:
            raise UserError(f"{path}: is another file of this build; give {option} its own.")
        taken.add(path.resolve())
    log = companions.build_log
    if log is not None and log.is_file() and not _is_log(log):
        raise UserError(f"{log}: holds something else than a build log; give --build-log its own.")


def _is_log(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(40)
    return not start or re.match(rb" *\d+\.\d{3} s  \w", start) is not None


def place_aside(cache: Path) -> Path:
    """Where a timing cache goes that is of no use here; another one set aside before stays."""
    place = cache.with_name(f"{cache.name}.set-aside")
    number = 2
    while place.exists():
        place = cache.with_name(f"{cache.name}.set-aside-{number}")
        number += 1
    return place


class Heard:
    """What the builder said: every line for the log, each warning once."""

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
    """Writes the log at the end, of a failed build above all."""
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
