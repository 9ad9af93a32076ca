"""bench: the fused network against the unfused one, on every runtime present."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..artifacts import OnnxArtifact, read_sidecar, write_json
from ..bench.environment import environment
from ..bench.measure import measure
from ..bench.stats import INTERVAL_SAMPLES, Ratio, Summary, speedup, summarize
from ..errors import UserError
from ..export.graph import to_onnx
from ..models.baseline import fold_conv_bn
from ..models.network import RepVGG
from ..optional import available
from ..runners.onnx_runtime import PROVIDERS, OrtRunner
from ..runners.protocol import Runner
from ..runners.torch_network import TorchRunner, no_tf32
from ..workspace import ModelFolder
from .export import default_image_size
from .verify import source_checkpoint
from .weights import Network, Reading, read_weights

RAW, FOLDED, FUSED = "unfused", "unfused, conv-BN folded", "fused"
RUNTIMES = ("torch-cpu", "onnxruntime-cpu", "torch-cuda", "onnxruntime-cuda")

#: (runtime, batch, share of the duration that is over)
Progress = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Contest:
    """The networks on one runtime at one batch size. ``seconds`` holds every single sample."""

    runtime: str
    batch: int
    seconds: dict[str, list[float]]
    summaries: dict[str, Summary]
    speedups: dict[str, Ratio]

    def throughput(self, network: str) -> float:
        """Images a second at the median."""
        return self.batch / self.summaries[network].median


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
    return [name for name in RUNTIMES if usable[name]]


def bench_model(
    folder: ModelFolder,
    *,
    batches: list[int],
    duration: float,
    threads: int | None = None,
    runtimes: list[str] | None = None,
    image_size: tuple[int, int] | None = None,
    progress: Progress = lambda runtime, batch, share: None,
) -> BenchResult:
    """Measure the current networks; write ``bench.json`` with every sample.

    ``duration`` is in seconds, for each runtime and batch size; ``threads`` None: one a core.
    ``image_size`` (height, width) defaults to the exported ONNX model's.

    Raises:
        UserError: a runtime that is not here, or a checkpoint that is gone or has changed.
    """
    present = runtimes_present()
    for name in runtimes or []:
        if name not in present:
            raise UserError(f"runtime {name}: not usable here; usable are {', '.join(present)}.")
    fused = folder.read_fused()
    deploy = read_weights(folder.fused).network
    size = image_size or _exported_size(folder) or default_image_size(deploy.spec)
    threads = threads or os.cpu_count() or 1
    torch.set_num_threads(threads)

    networks, notes = {FUSED: deploy.build()}, []
    if fused.source_form == "train":
        train = read_weights(source_checkpoint(fused), Reading(**fused.reading)).network.build()
        networks = {RAW: train, FOLDED: fold_conv_bn(train), **networks}
    else:
        notes.append("the checkpoint was fused already, so there is no unfused network to compare")
    notes += [f"{engine.name}: not measured, it needs a GPU" for engine in folder.engine_files()]

    contests = []
    for name in runtimes or present:
        for batch in batches:
            runners = dict(_runners(name, networks, size, threads))
            contests.append(_contest(name, batch, runners, deploy, size, duration, progress))
    notes += [
        f"{contest.runtime}, batch {contest.batch}: fewer than {INTERVAL_SAMPLES} samples, so no "
        "interval; give a longer --duration"
        for contest in contests
        if any(ratio.low is None for ratio in contest.speedups.values())
    ]
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


def _contest(
    name: str,
    batch: int,
    runners: dict[str, Runner],
    deploy: Network,
    size: tuple[int, int],
    duration: float,
    progress: Progress,
) -> Contest:
    shape = (batch, deploy.spec.in_channels, *size)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for runner in runners.values():
        runner.load(images)
    steps = {label: runner.step for label, runner in runners.items()}
    with no_tf32():
        seconds = measure(steps, duration, progress=lambda share: progress(name, batch, share))
    speedups = {
        label: speedup(seconds[label], seconds[FUSED]) for label in seconds if label != FUSED
    }
    summaries = {label: summarize(times) for label, times in seconds.items()}
    return Contest(name, batch, seconds, summaries, speedups)


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
