"""An ONNX model becomes a TensorRT engine, and its sidecar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from ..artifacts import EngineArtifact, OnnxArtifact, Source, lineage, read_sidecar, store
from ..engine.flavour import Flavour, check_supported
from ..engine.gpu import this_platform
from ..engine.options import BuildOptions
from ..engine.process import build_in_process
from ..engine.request import BuildReport, BuildRequest
from ..engine.rtx_api import TensorRTRTX
from ..engine.targets import check_targets, known_targets
from ..errors import UserError
from ..files import sha256_file, whole_file
from ..reparam.graph.files import read_proto
from ..workspace import ModelFolder
from .companions import Companions, Heard, check_companions, log_file


@dataclass(frozen=True)
class EngineResult:
    """``set_aside`` is where a timing cache went that this TensorRT could not use."""

    path: Path
    artifact: EngineArtifact
    reason: str
    set_aside: Path | None


def check_request(
    flavour: Flavour, precision: str, options: BuildOptions, timing_cache: Path | None
) -> None:
    """Refuse what cannot be built from a classification network, before any work is done.

    Raises:
        UserError: an option that the flavour lacks, or a target that lacks the precision.
    """
    check_supported(flavour, options, timing_cache)
    if flavour.name == "rtx":
        known = known_targets(cast(TensorRTRTX, flavour.trt))
        types = {precision} - {"int8"}  # of an int8 network the float type is not known yet
        check_targets(known, options.targets, types, types, flavour.version)


def quantized_onnx(folder: ModelFolder, precision: str) -> Path:
    """The Q/DQ model of a folder, which an int8 or fp8 engine is built from.

    Raises:
        UserError: there is none, or it was made from other weights than the folder holds.
    """
    path = folder.onnx(precision)
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --trt {precision} takes a Q/DQ ONNX model, which "
            "repvgg-deploy quantize will write in a coming version; put one of your own there, or "
            f"name it: repvgg-deploy export MODEL.onnx --trt {precision}."
        )
    if lineage(path):
        made_from = read_sidecar(path, OnnxArtifact).source
        if made_from.sha256 != sha256_file(folder.fused):
            raise UserError(
                f"{path}: was made from other weights than {folder.fused} holds; quantize again."
            )
    return path


def export_engine(
    onnx: Path,
    engine: Path,
    precision: str,
    flavour: Flavour,
    options: BuildOptions,
    companions: Companions,
    warn: Callable[[str], None],
) -> EngineResult:
    """Build ``engine`` from an ONNX model of that precision; with its sidecar, whole or not at all.

    ``warn`` gets each of the builder's warnings once, as it comes.

    Raises:
        UserError: the model or an option does not fit this TensorRT, or the builder fails.
        CheckFailed: the model is of another precision.
    """
    check_supported(flavour, options, companions.timing_cache)
    check_companions(companions, onnx, engine)
    read_proto(onnx)  # refuses what is no ONNX model, and external data outside its folder
    heard = Heard(warn)
    with log_file(companions.build_log, heard):
        return _Build(onnx, engine, precision, flavour, options).run(companions.timing_cache, heard)


@dataclass(frozen=True)
class _Build:
    """One build, of the files and settings it is made from."""

    onnx: Path
    engine: Path
    precision: str
    flavour: Flavour
    options: BuildOptions

    def run(self, timing_cache: Path | None, heard: Heard) -> EngineResult:
        if timing_cache is None:
            return self._build(None, None, heard)
        with whole_file(timing_cache) as new_cache:
            earlier = timing_cache if timing_cache.exists() else None
            result = self._build(earlier, new_cache, heard)
            if result.set_aside is not None:
                timing_cache.replace(result.set_aside)
        return result

    def _build(self, earlier: Path | None, new_cache: Path | None, heard: Heard) -> EngineResult:
        reports: list[BuildReport] = []

        def write(temporary: Path) -> None:
            request = BuildRequest(
                module=self.flavour.module,
                onnx=str(self.onnx),
                engine=str(temporary),
                precision=self.precision,
                options=self.options,
                timing_cache=None if earlier is None else str(earlier),
                new_cache=None if new_cache is None else str(new_cache),
            )
            reports.append(build_in_process(request, heard))

        artifact = store(
            self.engine, write, lambda sha256: self._describe(sha256, reports[0], heard.warnings)
        )
        unused = None if earlier is None or reports[0].cache_fits else earlier
        set_aside = None if unused is None else unused.with_name(f"{unused.name}.set-aside")
        return EngineResult(self.engine, artifact, self.flavour.reason, set_aside)

    def _describe(self, sha256: str, report: BuildReport, warnings: list[str]) -> EngineArtifact:
        rtx, gpu = self.flavour.name == "rtx", self.flavour.gpu
        beside = self.onnx.parent.resolve() == self.engine.parent.resolve()
        path = self.onnx.name if beside else str(self.onnx.resolve())
        return EngineArtifact(
            file=self.engine.name,
            sha256=sha256,
            source=Source(path, sha256_file(self.onnx)),
            lineage=[asdict(made_from) for made_from in lineage(self.onnx)],
            flavour=self.flavour.name,
            version=report.version,
            platform=this_platform(),
            targets=report.targets if rtx or gpu is None else [gpu.capability],
            gpu=None if rtx or gpu is None else asdict(gpu),
            precision=self.precision,
            layers=report.layers,
            inspected=report.inspected,
            inputs=report.inputs,
            outputs=report.outputs,
            profiles=report.profiles,
            options=asdict(self.options),
            warnings=warnings,
            proof=None,
        )
