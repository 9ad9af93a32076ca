"""Engine files with sidecars, and a machine with a GPU that can run them, for the tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repvgg_deploy.artifacts import EngineArtifact, Source
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.runners.tensorrt.device import gpu_device
from repvgg_deploy.sidecar import store

from .fake_pycuda import FakePycuda
from .fake_tensorrt import DataType, FakeNetwork, FakeTensorRT

GPU = Gpu("Fake GPU", "sm89", 8 << 30, "13.0")


@dataclass
class Machine:
    """``pycuda``, ``tensorrt`` and ``rtx`` are what would be imported on it."""

    pycuda: FakePycuda
    tensorrt: FakeTensorRT
    rtx: FakeTensorRT

    def engine(self, path: Path, network: FakeNetwork, **changes: Any) -> Path:
        """An engine file with its sidecar."""
        flavour = changes.get("flavour", "tensorrt")
        trt = self.rtx if flavour == "rtx" else self.tensorrt
        data = f"engine {path}".encode()
        trt.engines[data] = network
        fields: dict[str, Any] = {
            "source": Source("fp32.onnx", "0" * 64),
            "lineage": [],
            "flavour": flavour,
            "version": trt.__version__,
            "platform": "linux-x86_64",
            "targets": ["sm89"],
            "gpu": None if flavour == "rtx" else {"name": GPU.name, "capability": "sm89"},
            "precision": "fp32",
            "layers": [],
            "inspected": None,
            "inputs": [],
            "outputs": [],
            "profiles": [],
            "options": {},
            "warnings": [],
            "proof": None,
            **changes,
        }
        store(
            path,
            lambda temporary: temporary.write_bytes(data),
            lambda sha256: EngineArtifact(file=path.name, sha256=sha256, **fields),
        )
        return path


def fake_machine(monkeypatch: pytest.MonkeyPatch, run: Any = None) -> Machine:
    """This process believes that it has a GPU, pycuda and both TensorRTs."""
    machine = Machine(FakePycuda(), FakeTensorRT(), FakeTensorRT("1.7.1"))
    driver = machine.pycuda
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", machine.tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", machine.rtx)
    monkeypatch.setattr("repvgg_deploy.engine.load.this_gpu", lambda: GPU)
    gpu_device.cache_clear()
    return machine


def doubling(
    kind: DataType = DataType.FLOAT, batches: tuple[tuple[int, int, int], ...] = ((1, 2, 8),)
) -> FakeNetwork:
    """x [N, 3] -> y = 2 x; one profile for each of ``batches``."""
    return FakeNetwork(
        inputs={"x": (kind, (-1, 3))},
        outputs={"y": (kind, (-1, 3))},
        compute=lambda arrays: {"y": arrays["x"] * arrays["x"].dtype.type(2)},
        profiles=[{"x": tuple((n, 3) for n in sizes)} for sizes in batches],  # type: ignore[misc]
    )
