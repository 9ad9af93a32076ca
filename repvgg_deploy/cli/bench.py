"""repvgg-deploy bench"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .bench_compare import check_options, compare_options, run_compare
from .console import made, print_json, say, spinner, uninterrupted


@click.command("bench")
@click.option(
    "--batch",
    "batches",
    type=options.Batches(),
    default="1",
    show_default=True,
    help="Batch sizes.",
)
@click.option(
    "--duration",
    type=options.SECONDS,
    default=20.0,
    show_default=True,
    help="Seconds for each runtime and batch size; every network runs at least twice.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads. [default: one a core]")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    type=click.Choice(
        ["torch-cpu", "onnxruntime-cpu", "torch-cuda", "onnxruntime-cuda", "tensorrt", "rtx"]
    ),
    help="Measure on this runtime only; may be repeated. [default: all that are usable]",
)
@options.image_size
@options.model
@options.engines
@options.as_json
@compare_options
@click.pass_context
def command(
    ctx: click.Context,
    batches: list[int],
    duration: float,
    threads: int | None,
    runtimes: tuple[str, ...],
    image_size: tuple[int, int] | None,
    model: str | None,
    engines: Path,
    as_json: bool,
    compare: tuple[Path, Path] | None,
    fail_if_slower: float | None,
) -> None:
    """Measure fused against unfused.

    Latency and throughput on every runtime present, the networks taking turns in one process. The
    unfused network appears raw and with conv-BN folded, which any deployment has anyway.
    Image size: --size, else that of the exported ONNX model, else as export chooses it. Engines are
    measured where they can run, at their own size and precision.
    """
    check_options(ctx, compare, fail_if_slower)
    if compare is not None:
        run_compare(*compare, fail_if_slower, as_json)
        return
    with spinner("loading") as elapsed:
        with uninterrupted():
            from ..report.bench import bench_text
            from ..steps.bench import bench_model
            from ..steps.engine import build_like
            from ..workspace import Workspace
            from .progress import bench_progress

        folder = Workspace(engines).model(model)
    with bench_progress() as progress:
        result = bench_model(
            folder,
            batches=batches,
            duration=duration,
            threads=threads,
            runtimes=list(runtimes) or None,
            image_size=image_size,
            build_like=build_like,
            progress=progress,
        )
    say(bench_text(result))
    made(result.path, elapsed, "every sample kept")
    if as_json:
        print_json(result)
