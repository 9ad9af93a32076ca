"""bench: the fused network against the unfused one, on every runtime present."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..artifacts import FusedArtifact, OnnxArtifact
from ..bench.environment import environment
from ..bench.stats import INTERVAL_SAMPLES
from ..errors import UserError
from ..export.graph import to_onnx
from ..models.baseline import fold_conv_bn
from ..models.network import RepVGG
from ..optional import available
from ..runners.onnx_runtime import PROVIDERS, OrtRunner
from ..runners.protocol import Runner
from ..runners.torch_network import TorchRunner
from ..sidecar import read_sidecar, write_json
from ..workspace import ModelFolder
from .bench_engines import BuildLike, EngineBench, engine_runtimes
from .contest import FOLDED, FUSED, RAW, Contest, Progress, hold_contest
from .export import default_image_size
from .verify import source_checkpoint
from .weights import Reading, read_weights

RUNTIMES = ("torch-cpu", "onnxruntime-cpu", "torch-cuda", "onnxruntime-cuda", "tensorrt", "rtx")
ENGINE_RUNTIMES = RUNTIMES[4:]
_NOTHING_UNFUSED = "the checkpoint was fused already, so there is no unfused network to compare"


@dataclass(frozen=True)
class BenchResult:
    """``notes`` say what could not be measured here and why."""

    model: str
    architecture: str
    image_size: tuple[int, int]
    fused_sha256: str
    source_sha256: str
    proof: str
    environment: dict[str, Any]
    contests: list[Contest]
    notes: list[str]
    path: Path
    schema: int = 1


def runtimes_present() -> list[str]:
    """The runtimes that can measure here, in the order of RUNTIMES."""
    ort = available("onnxruntime")
    providers = ort.get_available_providers() if ort else []
    cuda = torch.cuda.is_available()
    usable = {
        "torch-cpu": True,
        "onnxruntime-cpu": PROVIDERS["cpu"] in providers,
        "torch-cuda": cuda,
        "onnxruntime-cuda": cuda and PROVIDERS["cuda"] in providers,
    }
    engines = engine_runtimes()
    return [name for name in RUNTIMES if usable.get(name, name in engines)]


def bench_model(
    folder: ModelFolder,
    *,
    batches: list[int],
    duration: float,
    threads: int | None = None,
    runtimes: list[str] | None = None,
    image_size: tuple[int, int] | None = None,
    build_like: BuildLike | None = None,
    progress: Progress = lambda runtime, batch, share: None,
) -> BenchResult:
    """Measure the current networks; write ``bench.json`` with every sample.

    ``duration`` is in seconds, for each runtime and batch size; ``threads`` None: one a core.
    ``image_size`` (height, width) defaults to the exported ONNX model's; engines have their own.
    ``build_like`` builds the unfused engines; without it the fused ones are measured alone.

    Raises:
        UserError: a runtime that is not here, a checkpoint that is gone or has changed, or an
            engine whose runtime was asked for and that cannot be measured.
    """
    wanted = _pick_runtimes(runtimes)
    fused = folder.read_fused()
    deploy = read_weights(folder.fused).network
    size = image_size or _exported_size(folder) or default_image_size(deploy.spec)
    threads = threads or os.cpu_count() or 1
    torch.set_num_threads(threads)

    unfused = _unfused(fused)
    networks = {**unfused, FUSED: deploy.build()}
    notes = [] if unfused else [_NOTHING_UNFUSED]

    contests = []
    for name in (name for name in wanted if name not in ENGINE_RUNTIMES):
        for batch in batches:
            runners = dict(_runners(name, networks, size, threads))
            shape = (batch, deploy.spec.in_channels, *size)
            contests.append(hold_contest(name, runners, shape, duration, progress))
    flavours = [name for name in wanted if name in ENGINE_RUNTIMES]
    if flavours or runtimes is None:
        asked = runtimes is not None
        engines = EngineBench(batches, duration, unfused, fused.sha256, build_like, asked, progress)
        engines.run(folder, flavours)
        contests, notes = contests + engines.contests, notes + engines.notes
    notes += _without_interval(contests)
    result = BenchResult(
        model=folder.name,
        architecture=fused.architecture,
        image_size=size,
        fused_sha256=fused.sha256,
        source_sha256=fused.source.sha256,
        proof=_proof_line(fused.proof),
        environment=environment(threads),
        contests=contests,
        notes=notes,
        path=folder.bench,
    )
    write_json(folder.bench, result)
    return result


def _pick_runtimes(asked: list[str] | None) -> list[str]:
    present = runtimes_present()
    for name in asked or []:
        if name not in present:
            raise UserError(f"runtime {name}: not usable here; usable are {', '.join(present)}.")
    return asked or present


def _unfused(fused: FusedArtifact) -> dict[str, RepVGG]:
    """The training network as it is and with conv-BN folded; empty where there is none."""
    if fused.source_form != "train":
        return {}
    train = read_weights(source_checkpoint(fused), Reading(**fused.reading)).network.build()
    return {RAW: train, FOLDED: fold_conv_bn(train)}


def _without_interval(contests: list[Contest]) -> list[str]:
    return [
        f"{contest.runtime}, batch {contest.batch}: fewer than {INTERVAL_SAMPLES} samples, so no "
        "interval; give a longer --duration"
        for contest in contests
        if any(ratio.low is None for ratio in contest.speedups.values())
    ]


def _runners(
    name: str, networks: dict[str, RepVGG], size: tuple[int, int], threads: int
) -> Iterator[tuple[str, Runner]]:
    runtime, device = name.split("-")
    for label, network in networks.items():
        if runtime == "torch":
            yield label, TorchRunner(network, torch.device(device))
        else:
            model = to_onnx(network.cpu(), size).SerializeToString()
            yield label, OrtRunner(model, device, threads)


def _exported_size(folder: ModelFolder) -> tuple[int, int] | None:
    """The image size of the ONNX model that export left, if there is one."""
    for path in folder.onnx_files():
        height, width = read_sidecar(path, OnnxArtifact).input_shape[2:]
        return height, width
    return None


def _proof_line(proof: dict[str, Any] | None) -> str:
    if proof is None:
        return "not proved (fused with --no-verify, or fused before)"
    ratio = proof.get("end_to_end", {}).get("ratio")
    return (
        f"passed, error ratio {ratio:.2g}" if isinstance(ratio, float) else "damaged in the sidecar"
    )
