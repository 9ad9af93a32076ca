"""The building process: one request on stdin, JSON lines on stdout.

A process of its own, since TensorRT's builder cannot be interrupted, may take minutes, and takes
the whole process along when it crashes or memory runs out. It imports TensorRT and no torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict

from ..errors import RepvggDeployError
from .build import build
from .request import BuildRequest


def main() -> None:
    """One build; ends with the process that asked for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what C++ prints must not end up among the answers
    request = BuildRequest.from_dict(json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def answer(**data: object) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    try:
        report = build(request, lambda severity, message: answer(says=[severity, message]))
    except RepvggDeployError as error:
        answer(error=str(error), exit_code=error.exit_code)
    except OSError as error:
        answer(errno=error.errno, error=error.strerror or str(error), file=error.filename)
    else:
        answer(report=asdict(report))


def _end_with_parent() -> None:
    os.read(0, 1)  # ends when the parent does, in whatever way
    os._exit(1)
