"""An ONNX model becomes a TensorRT engine, and its sidecar."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..artifacts import EngineArtifact, Source
from ..engine.flavour import Flavour, check_supported, choose_flavour
from ..engine.gpu import this_platform
from ..engine.options import BuildOptions, options_from_dict
from ..engine.process import build_in_process
from ..engine.request import BuildReport, BuildRequest
from ..errors import UserError
from ..files import sha256_file
from ..reparam.graph.files import data_files_of
from ..sidecar import check_bytes, lineage, prepare, prepare_sidecar
from ..transaction import transaction
from .companions import Companions, Heard, check_companions, log_file, place_aside
from .engine_proof import EngineProof, prove_engine


@dataclass(frozen=True)
class EngineResult:
    """``set_aside`` is where a timing cache went that this TensorRT could not use.

    ``unproved`` says why the engine was built but not run, empty where it was.
    """

    path: Path
    artifact: EngineArtifact
    set_aside: Path | None
    unproved: str


@dataclass(frozen=True)
class EnginePlan:
    """``onnx``, a model of ``precision``, becomes ``engine``.

    ``reference`` is what the engine is held against where it can run; None: it is not run.
    """

    onnx: Path
    engine: Path
    precision: str
    flavour: Flavour
    options: BuildOptions
    reference: Path | None


def export_engine(
    plan: EnginePlan, companions: Companions, warn: Callable[[str], None]
) -> EngineResult:
    """Build the engine; it and its sidecar appear whole or not at all.

    Where this machine can run it, it runs against what it was made from first. ``warn`` gets each
    of the builder's warnings once, as it comes.

    Raises:
        UserError: the model or an option does not fit this TensorRT, or the builder fails.
        CheckFailed: the model is of another precision, or the engine computes something else.
    """
    cache = companions.timing_cache
    check_supported(plan.flavour, plan.options, cache)
    check_companions(companions, plan.onnx, plan.engine)
    data = data_files_of(plan.onnx)  # refuses what is no ONNX model, and data outside its folder
    check_bytes(plan.onnx)
    heard = Heard(warn)
    with log_file(companions.build_log, heard):
        if cache is None:
            return _build(plan, data, None, None, heard)
        with transaction(cache.parent) as change:
            new_cache = change.place(cache)
            new_cache.touch()  # TensorRT may have nothing to keep
            result = _build(plan, data, cache if cache.exists() else None, new_cache, heard)
            if result.set_aside is not None:
                shutil.copyfile(cache, change.place(result.set_aside))
        return result


def build_like(onnx: Path, engine: Path, like: EngineArtifact) -> None:
    """Build another network's engine as ``like`` was built, so that the two can be compared.

    Raises:
        UserError: the flavour is not here, its options are not known, or the builder fails.
    """
    flavour = choose_flavour(like.flavour)
    try:
        options = options_from_dict(like.options)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{like.file}: its sidecar does not hold the options it was built with; "
            "export it again."
        ) from error
    plan = EnginePlan(onnx, engine, like.precision, flavour, options, reference=None)
    export_engine(plan, Companions(), warn=lambda message: None)


def _build(
    plan: EnginePlan,
    data: set[Path],
    cache: Path | None,
    new_cache: Path | None,
    heard: Heard,
) -> EngineResult:
    """Build, and prove the engine before it takes its place."""
    with transaction(plan.engine.parent) as change:
        reports: list[BuildReport] = []

        def write(temporary: Path) -> None:
            request = BuildRequest(
                module=plan.flavour.module,
                onnx=str(plan.onnx),
                engine=str(temporary),
                precision=plan.precision,
                options=plan.options,
                timing_cache=None if cache is None else str(cache),
                new_cache=None if new_cache is None else str(new_cache),
            )
            reports.append(build_in_process(request, heard))

        built = prepare(
            change,
            plan.engine,
            write,
            lambda sha256: _describe(plan, data, sha256, reports[0], heard.warnings),
        )
        proof = EngineProof(None, "not asked for")
        if plan.reference is not None:
            proof = prove_engine(change.place(plan.engine), built, plan.reference)
        artifact = replace(built, proof=proof.record)
        prepare_sidecar(change, plan.engine, artifact)
    set_aside = None if reports[0].cache_fits or cache is None else place_aside(cache)
    return EngineResult(plan.engine, artifact, set_aside, proof.reason)


def _describe(
    plan: EnginePlan, data: set[Path], sha256: str, report: BuildReport, warnings: list[str]
) -> EngineArtifact:
    rtx, gpu = plan.flavour.name == "rtx", plan.flavour.gpu
    beside = plan.onnx.parent.resolve() == plan.engine.parent.resolve()
    path = plan.onnx.name if beside else str(plan.onnx.resolve())
    return EngineArtifact(
        file=plan.engine.name,
        sha256=sha256,
        source=Source(path, sha256_file(plan.onnx)),
        lineage=[asdict(made_from) for made_from in lineage(plan.onnx)],
        flavour=plan.flavour.name,
        version=report.version,
        platform=this_platform(),
        targets=report.targets if rtx or gpu is None else [gpu.capability],
        gpu=None if rtx or gpu is None else asdict(gpu),
        precision=plan.precision,
        layers=report.layers,
        inspected=report.inspected,
        inputs=report.inputs,
        outputs=report.outputs,
        profiles=report.profiles,
        options=asdict(plan.options),
        warnings=warnings,
        proof=None,
        data={file.relative_to(plan.onnx.parent).as_posix(): sha256_file(file) for file in data},
    )
