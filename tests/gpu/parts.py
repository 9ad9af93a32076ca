"""What measure.py runs: each part says why it cannot run here, or returns what came out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repvgg_deploy.bench.measure import measure
from repvgg_deploy.bench.stats import speedup, summarize
from repvgg_deploy.engine.gpu import absence, this_gpu
from repvgg_deploy.engine.load import read_engine
from repvgg_deploy.equivalence.compare import compare
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.zoo import ZOO
from repvgg_deploy.optional import available
from repvgg_deploy.runners.onnx_cuda import OrtCudaRunner
from repvgg_deploy.runners.onnx_provider import PROVIDERS
from repvgg_deploy.runners.protocol import run
from repvgg_deploy.runners.tensorrt.runner import EngineRunner
from repvgg_deploy.runners.torch_network import TorchRunner, exact_math
from repvgg_deploy.steps.bench_subjects import FUSED, RAW

from ..benchmarks.training_loop import races
from .engines import engine_chain, rtx_for_this_gpu
from .equivalence import equivalence
from .networks import DTYPES, NAMES, forms
from .speed import LAYOUTS, MODES, race

BATCHES = (1, 32, 128)


@dataclass(frozen=True)
class Part:
    """``obstacle`` says why it cannot run here, None where it can; ``run`` takes the seconds for
    each comparison."""

    obstacle: Callable[[], str | None]
    run: Callable[[float], Any]


def no_cuda() -> str | None:
    return None if torch.cuda.is_available() else "torch sees no CUDA device here"


def no_onnxruntime() -> str | None:
    ort = available("onnxruntime")
    if ort is None or PROVIDERS["cuda"] not in ort.get_available_providers():
        return "the installed ONNX Runtime has no CUDA provider"
    return no_cuda()


def no_engines(module: str) -> str | None:
    if this_gpu() is None:
        return absence()
    missing = [name for name in (module, "pycuda.driver") if available(name) is None]
    return f"{' and '.join(missing)} cannot be imported here" if missing else None


def torch_equivalence(duration: float) -> Any:
    device = torch.device("cuda")
    return [
        {"network": name, **asdict(equivalence(networks, precision, device))}
        for name in NAMES
        for networks in [forms(name)]
        for precision in DTYPES
    ]


def torch_speed(name: str) -> Callable[[float], Any]:
    """A part for each network: compiling them takes minutes."""

    def races(duration: float) -> Any:
        """All layouts of the first network; the others as one would run them."""
        networks, size, results = forms(name), ZOO[name].image_size, []
        for layout in LAYOUTS if name == NAMES[0] else ("channels_last",):
            for batch in BATCHES:
                images = torch.randn(batch, 3, size, size, device="cuda", dtype=torch.float16)
                for mode in MODES:
                    raced = race(networks, mode, images, layout, duration)
                    results.append({"network": name, **raced})
                torch.compiler.reset()
        return results

    return races


def onnxruntime_cuda(duration: float) -> Any:
    networks, size = forms(NAMES[0]), ZOO[NAMES[0]].image_size
    models = {k: to_onnx(net, (size, size)).SerializeToString() for k, net in networks.items()}
    samples, cuda = probe_inputs(3, size, size), torch.device("cuda")
    runners = {label: OrtCudaRunner(model) for label, model in models.items()}
    fused = run(runners[FUSED], samples)
    with exact_math():
        own = run(TorchRunner(networks[RAW], cuda), samples)
        truth = run(TorchRunner(networks[RAW].double(), cuda), samples)
    return {
        "network": NAMES[0],
        "equivalence": asdict(compare("end to end", truth, own, fused)),
        "speed": [_onnxruntime_speed(runners, (n, 3, size, size), duration) for n in BATCHES],
    }


def _onnxruntime_speed(
    runners: Mapping[str, OrtCudaRunner], shape: tuple[int, ...], duration: float
) -> Any:
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for runner in runners.values():
        runner.load(images)
    seconds = measure({k: runner.step for k, runner in runners.items()}, duration).seconds
    return {
        "batch": shape[0],
        "median_ms": {k: summarize(times).median * 1e3 for k, times in seconds.items()},
        "fused_is_faster_by": {
            k: asdict(speedup(times, seconds[FUSED])) for k, times in seconds.items() if k != FUSED
        },
    }


def engines(flavour: str) -> Callable[[float], Any]:
    def chains(duration: float) -> Any:
        results = {}
        for precision in ("fp32", "fp16", "bf16"):
            with tempfile.TemporaryDirectory() as folder:
                results[precision] = engine_chain(
                    NAMES[0], flavour, precision, Path(folder), duration
                )
        return results

    return chains


def rtx_current(duration: float) -> Any:
    """What TensorRT-RTX says of this GPU, and the engine's first inferences if it builds one."""
    gpu, networks, size = this_gpu(), forms(NAMES[0]), ZOO[NAMES[0]].image_size
    assert gpu is not None
    samples = probe_inputs(3, size, size)
    with tempfile.TemporaryDirectory() as folder:
        onnx, engine = Path(folder) / "fp16.onnx", Path(folder) / "current.engine"
        model = to_onnx(networks[FUSED], (size, size), precision="fp16")
        onnx.write_bytes(model.SerializeToString())
        outcome = rtx_for_this_gpu(onnx, engine, gpu)
        if outcome["engine_bytes"] is None:
            return outcome
        starts = []
        for _ in ("cold", "warm"):
            with EngineRunner(read_engine(engine)) as runner:
                output = run(runner, samples)
                _, times = runner.run(samples.astype(np.float16))
                starts.append({"start": runner.start, "times": times, "said": runner.warnings})
    with exact_math():
        own = run(TorchRunner(networks[FUSED].half(), torch.device("cpu")), samples)
        truth = run(TorchRunner(networks[RAW].double(), torch.device("cpu")), samples)
    judged = compare("end to end", truth, own, output, "fp16")
    return {**outcome, "starts": starts, "equivalence": asdict(judged)}


def training(duration: float) -> Any:
    """Full A0, a step of ours against the plain loop's, in every precision."""
    return races(torch.device("cuda"), duration)


PARTS = {
    "torch-equivalence": Part(no_cuda, torch_equivalence),
    **{f"torch-speed-{name}": Part(no_cuda, torch_speed(name)) for name in NAMES},
    "training": Part(no_cuda, training),
    "onnxruntime-cuda": Part(no_onnxruntime, onnxruntime_cuda),
    "tensorrt": Part(lambda: no_engines("tensorrt"), engines("tensorrt")),
    "rtx": Part(lambda: no_engines("tensorrt_rtx"), engines("rtx")),
    "rtx-current": Part(lambda: no_engines("tensorrt_rtx"), rtx_current),
}
