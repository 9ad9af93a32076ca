"""Short runs of bench, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import Outcome

ONNX = Path("engines/ckpt/fp32.onnx")
RECORD = Path("engines/ckpt/bench.json")
QUICK = ("--duration", "0.02", "--threads", "1", "--no-roofline")
TORCH, ORT = ("--runtime", "torch-cpu"), ("--runtime", "onnxruntime-cpu")


def record(result: Outcome) -> Any:
    assert "Traceback" not in result.err
    return json.loads(result.out)


def measured(contest: Any) -> list[str]:
    return [one["label"] for one in contest["measured"]]


def interrupting(at: str) -> Callable[[], Any]:
    """A progress display amid which Ctrl-C comes, in the contest of that runtime."""

    @contextmanager
    def display() -> Iterator[Callable[[str, int, float], None]]:
        def report(runtime: str, batch: int, share: float) -> None:
            if runtime == at:
                raise KeyboardInterrupt

        yield report

    return display
