"""repvgg-deploy export"""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from . import options
from .console import made, print_json, say, spinner, uninterrupted


@click.command("export")
@click.option("--onnx", "want_onnx", is_flag=True, help="Write an ONNX model.")
@click.option(
    "--trt",
    type=click.Choice(["fp32", "fp16"]),
    help="Build a TensorRT engine of this precision, by way of an ONNX model of it.",
)
@click.option("--fp16", is_flag=True, help="Write the ONNX model of --onnx in half precision.")
@click.option(
    "--opset", type=click.IntRange(min=13), default=17, show_default=True, help="ONNX opset."
)
@click.option(
    "--batch",
    type=click.IntRange(1, options.LARGEST_BATCH),
    help="Fix the batch size. [default: dynamic]",
)
@options.image_size
@click.option(
    "--profile",
    type=options.Batches(),
    default="1,32,128",
    show_default=True,
    help="Smallest, tuned-for and largest batch of the engine.",
)
@click.option(
    "--target",
    "targets",
    type=options.TargetList(),
    help="GPUs to build a TensorRT-RTX engine for, e.g. sm86,sm89. [default: all possible]",
)
@options.model
@options.engines
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    want_onnx: bool,
    trt: str | None,
    fp16: bool,
    opset: int,
    batch: int | None,
    image_size: tuple[int, int] | None,
    profile: list[int],
    targets: list[str] | None,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Write ONNX, and build a TensorRT engine from it.

    The ONNX model is simplified, checked by ONNX, and run in ONNX Runtime against torch. TensorRT
    builds the engine where it is installed with a GPU, else TensorRT-RTX ahead of time. Image
    size: --size, else the size the variant was published at, else 224.
    """
    _check_usage(ctx)

    with uninterrupted():
        from ..engine.build import Profile
        from ..engine.flavour import choose_flavour
        from ..report.proof import check_line
        from ..report.text import counts_text
        from ..steps.export import check_targets, export_engine, export_onnx
        from ..workspace import Workspace

    if trt is not None and targets:
        check_targets(trt, targets)
    folder = Workspace(engines).model(model)
    onnx_precision = {"fp16" if fp16 else "fp32"} if want_onnx else set()
    results = {}
    for precision in sorted(onnx_precision | ({trt} if trt else set()), reverse=True):
        with spinner(f"writing {precision} ONNX") as elapsed:
            results[precision] = result = export_onnx(
                folder, precision=precision, opset=opset, image_size=image_size, batch=batch
            )
        before, after = counts_text(result.before), counts_text(result.after)
        simplified = "onnxsim left it so" if before == after else f"after onnxsim {after}"
        say(f"{result.path.name}: {before}; {simplified}")
        say(f"{result.path.name}: {check_line(result.checks)}")
        made(result.path, elapsed, f"{precision}, opset {opset}, checked")
    if not all(result.fused_proved for result in results.values()):
        say(
            "note: the fused weights carry no proof of their own (fused with --no-verify, or "
            "before they came here); the ONNX model was checked against them."
        )
    artifacts: list[object] = [result.artifact for result in results.values()]
    if trt is not None:
        flavour = choose_flavour()
        with spinner(f"building the {flavour.name} engine") as elapsed:
            engine = export_engine(folder, results[trt], flavour, Profile(*profile), targets or [])
        say(f"{flavour.name} {flavour.version}: {engine.reason}")
        built_for = ", ".join(engine.artifact.targets)
        made(engine.path, elapsed, f"{trt} for {built_for}; built, not run")
        artifacts.append(engine.artifact)
    if as_json:
        print_json(artifacts)


def _check_usage(ctx: click.Context) -> None:
    """Options that contradict one another, or that would have no effect, are refused."""
    given = ctx.params
    trt, profile = given["trt"], given["profile"]
    profile_given = ctx.get_parameter_source("profile") is ParameterSource.COMMANDLINE
    if given["fp16"] and not given["want_onnx"]:
        raise click.UsageError("--fp16 is the precision of --onnx; give both.")
    if not given["want_onnx"] and trt is None:
        raise click.UsageError("nothing to export; give --onnx, --trt fp16 or both.")
    if (given["targets"] or profile_given) and trt is None:
        raise click.UsageError("--target and --profile are for the engine of --trt; give that too.")
    if profile_given and given["batch"] is not None:
        raise click.UsageError("--batch fixes the engine's batch size; give it or --profile.")
    if len(profile) != 3 or sorted(profile) != profile:
        raise click.BadParameter(
            "write three batch sizes, ascending: 1,32,128.", param_hint="--profile"
        )
