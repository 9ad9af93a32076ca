"""Options of bench: runtimes, and the server scenario."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from . import options
from .subject import refuse_options

RUNTIMES = (
    "torch-cpu", "torch-compile-cpu", "torch-cuda", "torch-compile-cuda", "cuda-graphs",
    "onnxruntime-cpu", "onnxruntime-cuda", "openvino", "tensorrt", "rtx",
)  # fmt: skip


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``bound``, ``rate`` and ``requests``."""
    command = click.option(
        "--requests",
        type=click.IntRange(1, 1_000_000),
        default=1000,
        show_default=True,
        help="Of the server scenario: requests at each rate.",
    )(command)
    command = click.option(
        "--rate",
        type=options.RATE,
        help="Of the server scenario: requests a second. [default: search the largest that holds]",
    )(command)
    return click.option(
        "--bound",
        type=options.MILLISECONDS,
        help="Of the server scenario: the p99 of the latency, in ms, that a rate has to hold.",
    )(command)


def check_scenario(scenario: str, bound: float | None) -> None:
    """Usage error for options of another scenario."""
    if scenario != "server":
        refuse_options(("bound", "rate", "requests"), "--scenario is not server")
        return
    refuse_options(
        ("duration", "baseline", "builds", "roofline"), "the server scenario has no rounds"
    )
    if bound is None:
        raise click.UsageError("--scenario server takes --bound, the p99 in ms to be held.")
