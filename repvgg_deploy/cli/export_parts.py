"""What export does, each part with the lines that it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.options import QUANTIZED, BuildOptions
from .console import made, say, spinner

if TYPE_CHECKING:
    from ..equivalence.truth_file import Truth
    from ..steps.companions import Companions
    from ..steps.engine import EnginePlan, EngineResult
    from ..steps.export import OnnxResult
    from ..workspace import ModelFolder, Workspace

#: Opset, image size (height, width) and batch; None as the options of those names have it.
OnnxOptions = tuple[int | None, tuple[int, int] | None, int | None]


def export_own(
    onnx: Path,
    workspace: Workspace,
    name: str | None,
    precision: str,
    flavour: str,
    build: BuildOptions,
    companions: Companions,
    truth: Truth | None,
) -> list[object]:
    """The engine of an ONNX model that the user brings."""
    from ..engine.flavour import choose_flavour
    from ..steps.engine import EnginePlan

    if truth is not None:
        _hold_onnx(onnx, truth)
    chosen = choose_flavour(flavour)
    place = workspace.folder_of(onnx, name).claim_engine(onnx, chosen.name)
    plan = EnginePlan(onnx, place, precision, chosen, build, reference=onnx)
    return [_build_engine(plan, companions).artifact]


def export_model(
    folder: ModelFolder,
    wanted: set[str],
    trt: str | None,
    onnx_options: OnnxOptions,
    flavour: str,
    build: BuildOptions,
    companions: Companions,
    truth: Truth | None,
) -> list[object]:
    """ONNX models of the ``wanted`` precisions, then the engine, all of a fused model.

    Each file is of use by itself, so those that were finished, and are named on stderr, stay where
    a later one fails.
    """
    from ..engine.flavour import NoTensorRT, choose_flavour
    from ..steps.companions import check_companions
    from ..steps.engine import EnginePlan
    from ..steps.engine_proof import pick_reference
    from ..steps.engine_request import check_request, quantized_onnx
    from ..steps.image_size import recorded_size

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
        else:  # what can be refused is refused before the ONNX models are written
            onnx = quantized_onnx(folder, trt) if trt in QUANTIZED else folder.onnx(trt)
            place = folder.claim_engine(onnx, chosen.name)
            check_companions(companions, onnx, place)
            if truth is not None and trt in QUANTIZED:
                _hold_onnx(onnx, truth)
    opset, image_size, batch = onnx_options
    if trt in QUANTIZED and wanted:
        image_size = recorded_size(quantized_onnx(folder, trt))
    results = _write_onnx(folder, sorted(wanted, reverse=True), opset, image_size, batch, truth)
    if missing is not None:
        raise missing  # only now: the ONNX model is of use without an engine
    artifacts: list[object] = [result.artifact for result in results.values()]
    if trt is not None:
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
    truth: Truth | None,
) -> dict[str, OnnxResult]:
    """All are checked before the first is written."""
    from ..report.assumptions import assumption_lines
    from ..report.proof import check_line
    from ..report.text import counts_text
    from ..report.truth import truth_line
    from ..steps.export import check_onnx
    from ..steps.image_size import folder_sizes

    checked = {}
    for precision in precisions:
        with spinner(f"writing {precision} ONNX") as elapsed:
            check = check_onnx(
                folder,
                precision=precision,
                opset=opset,
                image_size=image_size,
                batch=batch,
                truth=truth,
            )
        checked[precision] = check, elapsed
    results: dict[str, OnnxResult] = {}
    for precision, (write, elapsed) in checked.items():
        result = write()
        for line in [] if results else assumption_lines(result.assumptions):
            say(line)
        results[precision] = result
        before, after = counts_text(result.before), counts_text(result.after)
        simplified = "onnxsim left it so" if before == after else f"after onnxsim {after}"
        say(f"{result.path.name}: {before}; {simplified}")
        say(f"{result.path.name}: {check_line(result.checks)}")
        if result.truth is not None:
            say(f"{result.path.name}: {truth_line(result.truth)}")
        *_, height, width = result.artifact.input_shape
        verdict = f"{precision}, {height}x{width}, opset {result.artifact.opset}, checked"
        made(result.path, elapsed, verdict)
        for name, (rows, columns) in folder_sizes(folder).items():
            if (rows, columns) != (height, width) and name.removesuffix(".onnx") not in precisions:
                say(
                    f"note: {name} takes images of {rows}x{columns} pixels, so bench and evaluate "
                    f"leave out one of the two; make it again at {height}x{width}."
                )
    if not all(result.fused_proved for result in results.values()):
        say(
            "note: the fused weights carry no proof of their own (fused with --no-verify, or "
            "before they came here); the ONNX model was checked against them."
        )
    return results


def _hold_onnx(onnx: Path, truth: Truth) -> None:
    """An ONNX model that is there already, before an engine is built from it."""
    from ..report.truth import truth_line
    from ..steps.truth import hold_graph

    say(f"{onnx.name}: {truth_line(hold_graph(onnx, truth))}")


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
