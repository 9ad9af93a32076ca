"""Stops a run at each of the moments at which it changes names on the disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Everything that puts a name on the disk or takes one off.
CALLS = ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir")


@contextmanager
def at_each_call(action: Callable[[int], None]) -> Iterator[None]:
    """Call ``action`` with a running number before and after each of CALLS in this folder."""
    number, inside = 0, False

    def hooked(call: Callable[..., object]) -> Callable[..., object]:
        def run(*given: object, **named: object) -> object:
            nonlocal number, inside
            if inside or str(given[0]).startswith("/proc"):
                return call(*given, **named)
            for moment in ("before", "after"):
                inside, number = True, number + 1
                try:
                    action(number)
                finally:
                    inside = False
                if moment == "before":
                    result = call(*given, **named)
            return result

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, hooked(getattr(os, name)))
        yield


def count_moments(run: Callable[[], object]) -> int:
    """How many there are in ``run``."""
    numbers = [0]
    with at_each_call(numbers.append):
        run()
    return numbers[-1]


def copies_at_each_moment(run: Callable[[], object], root: Path, copies: Path) -> list[Path]:
    """``root`` as it is at each moment of ``run``: what SIGKILL would leave there."""
    made: list[Path] = []

    def copy(number: int) -> None:
        made.append(copies / str(number) / root.name)
        shutil.copytree(root, made[-1], symlinks=True)
        for record in made[-1].rglob("commit.json"):  # a copy stands for the folder itself
            content = json.loads(record.read_text())
            record.write_text(json.dumps({**content, "stage": record.parent.stat().st_ino}))

    with at_each_call(copy):
        run()
    return made


def files(root: Path) -> dict[str, bytes]:
    """All files below ``root``, hidden ones too."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def hidden(root: Path) -> list[Path]:
    """What a run may not leave behind."""
    return [path for path in root.rglob(".*") if path.name != ".lock"]
