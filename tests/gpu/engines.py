"""Engines from checkpoint to measurement by the command line, as a user has it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from repvgg_deploy.artifacts import EngineArtifact, Source
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.engine.logger import make_logger
from repvgg_deploy.sidecar import store

from .networks import training_state

ENGINES = Path("engines/net")


def tool(folder: Path, *arguments: object) -> dict[str, Any]:
    """One command in ``folder``: its exit code, JSON and the last words to the human."""
    command = [sys.executable, "-m", "repvgg_deploy", *map(str, arguments)]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return {
        "command": ["repvgg-deploy", *map(str, arguments)],
        "exit_code": done.returncode,
        "seconds": time.perf_counter() - begin,
        "said": done.stderr[-2000:],
        "json": json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else None,
    }


def engine_chain(
    name: str, flavour: str, precision: str, folder: Path, duration: float, *options: object
) -> list[dict[str, Any]]:
    """fuse, export, verify and bench of one engine; ends at the first command that fails."""
    torch.save(training_state(name), folder / "net.pth")
    engine = ENGINES / f"{precision}.{flavour}.engine"
    commands: list[tuple[object, ...]] = [
        ("fuse", "net.pth"),
        ("export", "--trt", precision, "--flavour", flavour, *options),
        ("verify", ENGINES / "fused.safetensors", engine, "--json"),
        ("bench", "--runtime", flavour, "--batch", "1,32,128", "--duration", duration, "--json"),
    ]
    results: list[dict[str, Any]] = []
    for command in commands:
        results.append(tool(folder, *command))
        if results[-1]["exit_code"]:
            break
    return results


def rtx_for_this_gpu(onnx: Path, engine: Path, gpu: Gpu) -> dict[str, Any]:
    """Build with ComputeCapability.CURRENT, and say what TensorRT-RTX said; engine None: refused.

    The tool itself builds for the capabilities that have a name, which sm90 has not.
    """
    import tensorrt_rtx as trt

    said: list[str] = []
    logger = make_logger(trt, lambda kind, text: said.append(f"{kind}: {text}"))
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(onnx))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    sizes = [(batch, *tuple(image.shape)[1:]) for batch in (1, 32, 128)]
    profile.set_shape(image.name, *sizes)
    config.add_optimization_profile(profile)
    begin = time.perf_counter()
    data = builder.build_serialized_network(network, config) if parsed else None
    outcome = {
        "version": trt.__version__,
        "gpu": gpu.name,
        "capability": gpu.capability,
        "seconds": time.perf_counter() - begin,
        "said": [line for line in said if not line.startswith(("info", "verbose"))][-20:],
        "engine_bytes": None if data is None else data.nbytes,
    }
    if data is not None:
        store(
            engine,
            lambda temporary: temporary.write_bytes(data),
            lambda sha256: _record(engine.name, sha256, trt.__version__, gpu),
        )
    return outcome


def _record(name: str, sha256: str, version: str, gpu: Gpu) -> EngineArtifact:
    return EngineArtifact(
        file=name, sha256=sha256, source=Source("fp16.onnx", ""), lineage=[], flavour="rtx",
        version=version, platform="", targets=[gpu.capability], gpu=None, precision="fp16",
        layers=[], inspected=None, inputs=[], outputs=[], profiles=[], options={}, warnings=[],
        proof=None,
    )  # fmt: skip
