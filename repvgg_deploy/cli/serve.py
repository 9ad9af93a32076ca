"""repvgg-deploy serve"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import made, print_json, say, spinner, uninterrupted


@click.command("serve")
@click.option(
    "--triton",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write a model repository for NVIDIA Triton Inference Server.",
)
@click.option(
    "--artifact",
    "artifacts",
    metavar="FILE",
    multiple=True,
    help="ONNX model or engine in the model's folder, e.g. fp16.onnx; may be repeated. "
    "[default: all that Triton can load]",
)
@click.option("--name", help="Name in the repository, before the precision. [default: the model's]")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Class names, one a line, for Triton to name."
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, options.LARGEST_BATCH),
    help="Largest batch. [default: the engine's own, 128 for ONNX]",
)
@click.option(
    "--queue-delay",
    metavar="MICROSECONDS",
    type=click.IntRange(0, 60_000_000),
    default=0,
    show_default=True,
    help="How long a request may wait for others to fill a batch.",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Copies of each model on every GPU.",
)
@options.model
@options.engines
@options.as_json
def command(
    triton: Path | None,
    artifacts: tuple[str, ...],
    name: str | None,
    labels: Path | None,
    max_batch: int | None,
    queue_delay: int,
    instances: int,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Write what a server needs to serve the exported model.

    Every ONNX model and every TensorRT engine becomes a model of a Triton repository, named
    <model>_<precision>_<onnx|tensorrt>; engines of one precision for several GPUs become one.
    What was written before and has changed becomes the next version. docs/serving.md has a
    compose file that starts the server.
    """
    if triton is None:
        raise click.UsageError("nothing to write; give --triton DIR.")
    with uninterrupted():
        from ..report.serve import plan_lines, written_text
        from ..serving.triton.model import Scheduling
        from ..serving.triton.plan import plan_triton, write_triton
        from ..workspace import Workspace

    with spinner("reading the artifacts"):
        plan = plan_triton(
            Workspace(engines).folder(model),
            triton,
            artifacts=artifacts,
            name=name,
            labels=labels,
            scheduling=Scheduling(max_batch, queue_delay, instances),
        )
    for line in plan_lines(plan):
        say(line)
    results = []
    for planned in plan.models:
        with spinner(f"writing {planned.name}") as elapsed:
            results.append(write_triton(plan, planned))
        for file in results[-1].files:
            made(file, elapsed, written_text(results[-1]))
    say("written, not loaded: this tool runs no server (docs/serving.md)")
    if as_json:
        print_json({"models": results, "left_out": plan.left_out})
