"""Engines by the real TensorRT-RTX builder, headers as TensorRT writes them, and sidecars."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import onnx
import pytest

from repvgg_deploy.artifacts import EngineArtifact, Source
from repvgg_deploy.engine.gpu import Gpu, this_platform
from repvgg_deploy.sidecar import store

from .graphs import graph

ADA = Gpu("NVIDIA GeForce RTX 4090", "sm89", 24 << 30, "13.0")
AMPERE = Gpu("NVIDIA GeForce RTX 3090", "sm86", 24 << 30, "13.0")
TURING = Gpu("NVIDIA T4", "sm75", 16 << 30, "13.0")

ZEROS = "0" * 64


def rtx_engine(tmp_path: Path, targets: tuple[str, ...] = (), profiles: int = 1) -> bytes:
    """One convolution; no target named leaves them to TensorRT-RTX."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    onnx.save(graph("y = Conv(x, swap)"), tmp_path / "conv.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse_from_file(str(tmp_path / "conv.onnx"))
    config = builder.create_builder_config()
    for batch in range(1, profiles + 1):
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(batch, 2, 8, 8)] * 3)
        config.add_optimization_profile(profile)
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    return bytes(memoryview(builder.build_serialized_network(network, config)))


def plan(
    magic: bytes = b"ftrt",
    version: tuple[int, int, int, int] = (10, 13, 3, 9),
    layout: int = 0,
    bits: int = 0,
) -> bytes:
    """The header that trtexec --getPlanVersionOnly reads, and a body; TensorRT is not to be had
    here to write one."""
    body = b"body" * 16
    header = struct.pack("<4sIQQ4B4sI", magic, layout, 2, 36 + len(body), *version, magic, bits)
    return header + body


def with_header(engine: bytes, metadata: bytes) -> bytes:
    """As Ultralytics writes it."""
    return len(metadata).to_bytes(4, byteorder="little", signed=True) + metadata + engine


def record(**changes: Any) -> dict[str, Any]:
    """The fields of an EngineArtifact of TensorRT 10.13.3.9 for ADA."""
    shapes = {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [16, 3, 8, 8]}
    layer = {"name": "conv", "kind": "convolution", **dict.fromkeys(("input", "weight"), "fp16")}
    return {
        "file": "m.engine",
        "sha256": ZEROS,
        "source": {"path": "fp16.onnx", "sha256": "1" * 64},
        "lineage": [
            {"path": "fused.safetensors", "sha256": "2" * 64},
            {"path": "/data/ckpt.pth", "sha256": "3" * 64},
        ],
        "flavour": "tensorrt",
        "version": "10.13.3.9",
        "platform": this_platform(),
        "targets": ["sm89"],
        "gpu": {"name": ADA.name, "capability": "sm89", "memory": ADA.memory, "cuda": "13.0"},
        "precision": "fp16",
        "layers": [{**layer, "output": "fp16"}, {**layer, "name": "head", "output": "fp32"}],
        "inspected": None,
        "inputs": [{"name": "x", "dtype": "fp16", "shape": [-1, 3, 8, 8]}],
        "outputs": [{"name": "y", "dtype": "fp32", "shape": [-1, 5]}],
        "profiles": [{"x": shapes}],
        "options": {"profiles": [], "targets": [], "workspace": 1 << 30, "tf32": False},
        "warnings": [],
        "proof": None,
        **changes,
    }


def artifact(**changes: Any) -> EngineArtifact:
    fields = record(**changes)
    return EngineArtifact(**{**fields, "source": Source(**fields["source"])})


def store_engine(path: Path, engine: bytes, **changes: Any) -> EngineArtifact:
    """An engine and its sidecar."""
    return store(
        path,
        lambda temporary: temporary.write_bytes(engine),
        lambda sha256: artifact(sha256=sha256, file=path.name, **changes),
    )
