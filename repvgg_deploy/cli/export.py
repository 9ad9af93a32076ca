"""repvgg-deploy export"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..engine.options import PRECISIONS, QUANTIZED, BuildOptions
from . import build_options, options
from .build_options import ENGINE_ONLY
from .console import made, print_json, say, spinner, uninterrupted
from .subject import refuse_options

if TYPE_CHECKING:
    from ..steps.companions import Companions
    from ..steps.engine import EnginePlan, EngineResult
    from ..steps.export import OnnxResult
    from ..workspace import ModelFolder, Workspace

#: Opset, image size (height, width) and batch; None as the options of those names have it.
OnnxOptions = tuple[int | None, tuple[int, int] | None, int | None]


@click.command("export")
@click.argument("onnx_file", metavar="[ONNX]", required=False, type=click.Path(path_type=Path))
@click.option("--onnx", "want_onnx", is_flag=True, help="Write an ONNX model.")
@click.option(
    "--trt",
    type=click.Choice(PRECISIONS),
    help="Build a TensorRT engine of this precision, by way of an ONNX model of it.",
)
@click.option("--fp16", is_flag=True, help="Write the ONNX model of --onnx in half precision.")
@click.option("--opset", type=click.IntRange(min=13), help="ONNX opset. [default: 17; 22 for bf16]")
@click.option(
    "--batch",
    type=click.IntRange(1, options.LARGEST_BATCH),
    help="Fix the batch size. [default: dynamic]",
)
@options.image_size
@build_options.flavour
@build_options.build_options
@build_options.timing_cache
@build_options.build_log
@click.option("--name", help="Folder in the workspace for the engine of ONNX. [default: its name]")
@options.model
@options.engines
@options.as_json
def command(
    onnx_file: Path | None,
    want_onnx: bool,
    trt: str | None,
    fp16: bool,
    opset: int | None,
    batch: int | None,
    image_size: tuple[int, int] | None,
    flavour: str,
    build: BuildOptions,
    timing_cache: Path | None,
    build_log: Path | None,
    name: str | None,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Write ONNX, and build a TensorRT engine from it.

    The ONNX model is simplified, checked by ONNX, and run in ONNX Runtime against torch. TensorRT
    builds the engine where it is installed with a GPU, else TensorRT-RTX ahead of time. The
    engine's precision is that of the ONNX model, and is proved from its types. Image size: --size,
    else the size the variant was published at, else 224.

    With ONNX, a model of your own (a fused one, or one with Q/DQ nodes), only the engine is built,
    in the precision that --trt says the model is of.
    """
    _check_usage(onnx_file, want_onnx, trt, fp16, batch)
    with uninterrupted():
        from ..steps.companions import Companions
        from ..workspace import Workspace

    workspace, companions = Workspace(engines), Companions(timing_cache, build_log)
    if onnx_file is not None:
        assert trt is not None  # _check_usage
        artifacts = _export_own(onnx_file, workspace, name, trt, flavour, build, companions)
    else:
        folder = workspace.model(model)
        wanted = {"fp16" if fp16 else "fp32"} if want_onnx else set()
        onnx_options = (opset, image_size, batch)
        artifacts = _export_model(folder, wanted, trt, onnx_options, flavour, build, companions)
    if as_json:
        print_json(artifacts)


def _export_own(
    onnx: Path,
    workspace: Workspace,
    name: str | None,
    precision: str,
    flavour: str,
    build: BuildOptions,
    companions: Companions,
) -> list[object]:
    """The engine of an ONNX model that the user brings."""
    from ..engine.flavour import choose_flavour
    from ..steps.engine import EnginePlan

    chosen = choose_flavour(flavour)
    place = workspace.folder_of(onnx, name).claim_engine(onnx, chosen.name)
    plan = EnginePlan(onnx, place, precision, chosen, build, reference=onnx)
    return [_build_engine(plan, companions).artifact]


def _export_model(
    folder: ModelFolder,
    wanted: set[str],
    trt: str | None,
    onnx_options: OnnxOptions,
    flavour: str,
    build: BuildOptions,
    companions: Companions,
) -> list[object]:
    """ONNX models of the ``wanted`` precisions, then the engine, all of a fused model."""
    from ..engine.flavour import NoTensorRT, choose_flavour
    from ..steps.engine import EnginePlan, check_request, quantized_onnx
    from ..steps.engine_proof import pick_reference

    missing: NoTensorRT | None = None
    if trt is not None:
        wanted = wanted | ({trt} - set(QUANTIZED))
        try:
            chosen = choose_flavour(flavour)
            check_request(chosen, trt, build, companions.timing_cache)
        except NoTensorRT as error:
            if flavour != "auto":
                raise
            missing = error
    results = _write_onnx(folder, sorted(wanted, reverse=True), *onnx_options)
    if missing is not None:
        raise missing  # only now: the ONNX model is of use without an engine
    artifacts: list[object] = [result.artifact for result in results.values()]
    if trt is not None:
        onnx = quantized_onnx(folder, trt) if trt in QUANTIZED else results[trt].path
        place = folder.claim_engine(onnx, chosen.name)
        reference = pick_reference(trt, folder.fused, onnx)
        plan = EnginePlan(onnx, place, trt, chosen, build, reference)
        artifacts.append(_build_engine(plan, companions).artifact)
    return artifacts


def _write_onnx(
    folder: ModelFolder,
    precisions: list[str],
    opset: int | None,
    image_size: tuple[int, int] | None,
    batch: int | None,
) -> dict[str, OnnxResult]:
    from ..report.proof import check_line
    from ..report.text import counts_text
    from ..steps.export import export_onnx

    results = {}
    for precision in precisions:
        with spinner(f"writing {precision} ONNX") as elapsed:
            results[precision] = result = export_onnx(
                folder, precision=precision, opset=opset, image_size=image_size, batch=batch
            )
        before, after = counts_text(result.before), counts_text(result.after)
        simplified = "onnxsim left it so" if before == after else f"after onnxsim {after}"
        say(f"{result.path.name}: {before}; {simplified}")
        say(f"{result.path.name}: {check_line(result.checks)}")
        made(result.path, elapsed, f"{precision}, opset {result.artifact.opset}, checked")
    if not all(result.fused_proved for result in results.values()):
        say(
            "note: the fused weights carry no proof of their own (fused with --no-verify, or "
            "before they came here); the ONNX model was checked against them."
        )
    return results


def _build_engine(plan: EnginePlan, companions: Companions) -> EngineResult:
    from ..report.engine import built_text
    from ..report.text import one_line
    from ..steps.engine import export_engine

    flavour = plan.flavour
    say(f"{flavour.name} {flavour.version}: {flavour.reason}")
    with spinner(f"building the {flavour.name} engine") as elapsed:
        result = export_engine(
            plan, companions, warn=lambda message: say(one_line(f"{flavour.name} warns: {message}"))
        )
    if result.set_aside is not None:
        say(
            f"note: {companions.timing_cache}: the timing cache there is of another TensorRT or "
            f"GPU, or damaged, so it was not used; it lies at {result.set_aside} now."
        )
    if result.unproved and flavour.gpu is not None:
        say(f"note: the engine was not run: {result.unproved}")
    made(result.path, elapsed, built_text(result.artifact))
    return result


def _check_usage(
    onnx_file: Path | None, want_onnx: bool, trt: str | None, fp16: bool, batch: int | None
) -> None:
    """Options that contradict one another, or that would have no effect, are refused."""
    if trt in ("fp16", "bf16"):
        refuse_options(("tf32",), f"a {trt} engine has no float32 layer to round")
    if onnx_file is not None:
        if trt is None:
            raise click.UsageError("give --trt with the precision that ONNX is of.")
        ours = ("want_onnx", "fp16", "opset", "batch", "image_size", "model")
        refuse_options(ours, f"{onnx_file} is an ONNX model already")
        return
    refuse_options(("name",), "it is for the engine of an ONNX model that you name")
    if fp16 and not want_onnx:
        raise click.UsageError("--fp16 is the precision of --onnx; give both.")
    if not want_onnx and trt is None:
        raise click.UsageError("nothing to export; give --onnx, --trt fp16 or both.")
    if trt is None:
        refuse_options(ENGINE_ONLY, "it is for the engine of --trt")
    if trt in QUANTIZED:
        unused = ("batch", "image_size") if want_onnx else ("batch", "image_size", "opset")
        refuse_options(unused, f"--trt {trt} takes the Q/DQ model as it is")
    if batch is not None:
        refuse_options(("profiles",), "--batch fixes the engine's batch size")
