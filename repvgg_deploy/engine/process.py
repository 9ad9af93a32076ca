"""Builds an engine in a process of its own, and hands on what the builder says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

from ..errors import CheckFailed, UserError
from .request import BuildReport, BuildRequest

#: Isolated, so that no file in the working folder is imported; what we import, it imports.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from repvgg_deploy.engine.worker import main; main()"
)


def build_in_process(request: BuildRequest, say: Callable[[str, str], None]) -> BuildReport:
    """Build, with the engine written to ``request.engine``.

    ``say(severity, message)`` gets TensorRT's own messages. An exception in it, or Ctrl-C, ends the
    builder at once.

    Raises:
        UserError: the model or the builder, in a sentence; the builder crashed or was killed.
        CheckFailed: the network is of another precision than asked for.
        OSError: the engine could not be written.
    """
    command = [sys.executable, "-I", "-c", _START, json.dumps(sys.path)]
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            encoding="utf-8",
        )
        try:
            answer = _converse(process, request, say)
        finally:
            process.kill()
            process.communicate()
        if answer is None:
            raise UserError(f"{request.onnx}: {_death(process.returncode, printed)}")
    if "report" in answer:
        return BuildReport(**answer["report"])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["error"], answer["file"])
    kind = CheckFailed if answer["exit_code"] == CheckFailed.exit_code else UserError
    raise kind(answer["error"])


def _converse(
    process: subprocess.Popen[str], request: BuildRequest, say: Callable[[str, str], None]
) -> dict[str, Any] | None:
    """The last answer, None where the process ended without one."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(request)) + "\n")
        process.stdin.flush()
    except BrokenPipeError:  # it died at once; what it printed says why
        process.wait()
        return None
    for line in process.stdout:
        if not line.endswith("\n"):
            break  # it died amid a line
        answer: dict[str, Any] = json.loads(line)
        if "says" not in answer:
            return answer
        severity, message = answer["says"]
        say(severity, message)
    process.wait()
    return None


def _death(code: int, printed: IO[bytes]) -> str:
    """Why the building process ended without a word to us."""
    printed.seek(0)
    words = printed.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(words) if line.strip()), "")
    said = f'; its last words: "{last[:300]}"' if last else ""
    if -code == getattr(signal, "SIGKILL", None):
        return (
            "the builder was killed, most likely because memory ran out; free some, or give a "
            f"smaller --profile or --workspace{said}."
        )
    if code < 0:
        name = signal.Signals(-code).name
        return f"TensorRT's builder crashed ({name}); the model may be damaged{said}."
    return f"the building process ended with code {code}{said}."
