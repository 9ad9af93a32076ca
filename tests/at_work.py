"""The command in a process of its own that comes to one place and stays there, so that a signal
finds it there, however fast the machine is and whatever else it has to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds for what a loaded machine may take long for; nothing waits for them to pass.
PATIENCE = 600

_IMPORTING = """
class Place:
    def find_spec(self, name, path=None, target=None):
        if name == place:
            print("here", flush=True)
            sys.stdin.readline()
sys.meta_path.insert(0, Place())
"""
_CALLING = """
import importlib
module, name = place.split(":")
module = importlib.import_module(module)
work = getattr(module, name)
def again_and_again(*arguments, **options):
    print("here", flush=True)
    while True:
        work(*arguments, **options)
setattr(module, name, again_and_again)
"""
_START = """
import runpy, sys
place = sys.argv.pop(1)
{}
runpy.run_module("repvgg_deploy", run_name="__main__")
"""


@contextmanager
def stopped_at(
    place: str, *arguments: object, folder: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """``repvgg-deploy`` when it has come to ``place``: ``module``, amid its import, which goes on
    with the next line on stdin; or ``module:function``, which it calls again and again.

    A function has to be looked up in that module after this, not imported by its name before.
    """
    code = _START.format(_CALLING if ":" in place else _IMPORTING)
    with subprocess.Popen(
        [sys.executable, "-c", code, place, *map(str, arguments)],
        cwd=folder, env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "here\n", process.communicate(timeout=PATIENCE)
            yield process
        finally:
            process.kill()
