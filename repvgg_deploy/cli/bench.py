"""repvgg-deploy bench"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ..models.reference import REFERENCES
from . import options
from .bench_compare import check_options, compare_options, run_compare
from .bench_options import RUNTIMES, check_scenario, server_options
from .console import made, print_json, say, spinner, uninterrupted
from .subject import refuse_options

_INTERRUPTED = 130


@click.command("bench")
@click.argument("files", metavar="[SUBJECT]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--reference",
    "references",
    multiple=True,
    type=click.Choice(REFERENCES),
    help="Measure this network too, with random weights; may be repeated.",
)
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
    type=click.Choice(RUNTIMES),
    help="Measure on this runtime only; may be repeated. [default: all that are usable]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    help="Measure networks of this precision only, torch's too; may be repeated. [default: torch's "
    "in fp32, and every ONNX model and engine]",
)
@click.option(
    "--scenario",
    type=click.Choice(["latency", "throughput", "server"]),
    default="latency",
    show_default=True,
    help="One batch after the other; several in flight where the runtime can; or requests of one "
    "image that come at random, up to the largest --batch answered at a time.",
)
@server_options
@click.option("--baseline", help="Hold the others against this one. [default: unfused]")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the images, the order of the networks and the intervals.",
)
@click.option(
    "--builds",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Builds of each engine: TensorRT picks its kernels anew for each.",
)
@click.option(
    "--roofline/--no-roofline",
    default=True,
    show_default=True,
    help="Measure this device's ceilings, once in about 10 seconds, and the share reached.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Measure SUBJECTs and references alone, without the workspace, and write the record here.",
)
@options.image_size
@options.model
@options.engines
@options.as_json
@compare_options
@click.pass_context
def command(
    ctx: click.Context,
    files: tuple[Path, ...],
    references: tuple[str, ...],
    batches: list[int],
    duration: float,
    threads: int | None,
    runtimes: tuple[str, ...],
    precisions: tuple[str, ...],
    scenario: str,
    bound: float | None,
    rate: float | None,
    requests: int,
    baseline: str | None,
    seed: int,
    builds: int,
    roofline: bool,
    output: Path | None,
    image_size: tuple[int, int] | None,
    model: str | None,
    engines: Path,
    as_json: bool,
    compare: tuple[Path, Path] | None,
    fail_if_slower: float | None,
) -> None:
    """Measure fused against unfused, and beside others.

    Everything that the workspace holds of the current model, and each SUBJECT (a checkpoint, fused
    weights, an ONNX model or an engine), on every runtime present, taking turns in one process. The
    unfused network appears raw and with conv-BN folded, which any deployment has anyway. Outputs
    are compared first: exit code 3 where they differ.
    Image size: --size, else that of the exported ONNX model, else as export chooses it. Engines and
    named ONNX models have their own.
    """
    check_options(ctx, compare, fail_if_slower)
    if compare is not None:
        run_compare(*compare, fail_if_slower, as_json)
        return
    check_scenario(scenario, bound)
    if output is not None:
        refuse_options(("model", "engines"), "--output measures without the workspace")
        if not files and not references:
            raise click.UsageError("--output takes a SUBJECT or --reference to measure.")
    with spinner("loading") as elapsed, uninterrupted():
        from ..bench.cores import usable_cores
        from ..errors import CheckFailed, UserError
        from ..optional import available
        from ..report.bench import bench_text
        from ..steps.bench import bench
        from ..steps.bench_field import Settings
        from ..steps.bench_server import Load
        from ..steps.engine import build_like
        from ..workspace import Workspace
        from .progress import bench_progress

        available("onnxruntime")  # imported now: a signal amid that looks like its absence
        available("openvino")
    folder = None
    if output is None:
        folder = Workspace(engines).model(model)
        output = folder.bench
    settings = Settings(
        batches=list(dict.fromkeys(batches)),
        duration=duration,
        threads=threads or usable_cores(),
        runtimes=list(dict.fromkeys(runtimes)),
        precisions=list(dict.fromkeys(precisions)),
        scenario=scenario,
        image_size=image_size,
        baseline=baseline,
        references=list(dict.fromkeys(references)),
        seed=seed,
        builds=builds,
        roofline=roofline,
        load=None if bound is None else Load(bound / 1e3, requests, rate),
    )
    with bench_progress() as progress:
        outcome = bench(
            settings,
            folder,
            files,
            output,
            command=shlex.join(["repvgg-deploy", *sys.argv[1:]]),
            build_like=build_like,
            progress=progress,
        )
    say(bench_text(outcome.record))
    made(outcome.path, elapsed, "every sample kept")
    if as_json:
        print_json(outcome.record)
    if outcome.interrupted:
        sys.exit(_INTERRUPTED)
    if outcome.differing:
        found = "; ".join(outcome.differing).removesuffix(".")
        raise CheckFailed(f"{outcome.path}: results differ: {found}.")
    if outcome.missed:
        raise UserError(" ".join(outcome.missed))
