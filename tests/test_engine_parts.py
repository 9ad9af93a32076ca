"""Parts of the engine room that need no builder: words, tables, the GPU, the timing cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repvgg_deploy.engine import build
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.engine.inspector import (
    inspect_layers,
    inspected_mismatches,
    inspected_table,
)
from repvgg_deploy.engine.messages import explain
from repvgg_deploy.engine.options import BuildOptions
from repvgg_deploy.engine.precision import LayerTypes, mismatches
from repvgg_deploy.engine.request import BuildRequest
from repvgg_deploy.engine.targets import obstacle
from repvgg_deploy.engine.timing_cache import use_timing_cache
from repvgg_deploy.errors import UserError

from .fake_tensorrt import FakeTensorRT, Severity

L4 = Gpu("NVIDIA L4", "sm89", 24 * 10**9, "12.4")


def layer(name: str, read: str, weight: str, written: str) -> LayerTypes:
    return LayerTypes(name, "convolution", read, weight, written)


@pytest.mark.parametrize(
    ("precision", "rows", "wrong"),
    [
        ("fp16", [("a", "fp16", "fp16", "fp16")], []),
        ("fp16", [("a", "fp16", "fp16", "fp32")], ["a reads fp16, weighs with fp16 and writes"]),
        ("fp32", [("a", "int8", "int8", "fp32")], ["a reads int8"]),
        ("int8", [("a", "int8", "int8", "fp16"), ("b", "fp16", "fp16", "fp16")], []),
        (
            "int8",
            [("a", "fp16", "fp16", "fp16")],
            ["none of the 1 weighted layers reads or weighs with int8"],
        ),
        ("int8", [("a", "int8", "int8", "x"), ("b", "int8", "fp16", "x")], ["b reads int8 and"]),
        ("int8", [("a", "int8", "int8", "x"), ("b", "fp8", "fp8", "x")], ["b reads fp8 and"]),
        (
            "fp8",
            [("a", "int8", "int8", "fp16")],
            ["none of the 1 weighted layers reads or weighs with fp8"],
        ),
        ("int8", [("a", "int8", "int8", "x"), ("b", "fp32", "int4", "x")], ["b reads fp32 and"]),
        ("fp16", [], ["no convolution"]),
    ],
)
def test_mismatches(precision: str, rows: list[tuple[str, ...]], wrong: list[str]) -> None:
    found = mismatches([layer(*row) for row in rows], precision)
    assert len(found) == len(wrong)
    assert all(text in sentence for text, sentence in zip(wrong, found, strict=True))


@pytest.mark.parametrize(
    ("target", "types", "products", "possible"),
    [
        ("sm75", {"fp16"}, {"fp16"}, True),
        ("sm75", {"fp16", "fp32"}, {"fp16"}, True),
        ("sm75", {"fp32"}, {"fp32"}, False),
        ("sm75", {"bf16"}, set(), False),
        ("sm75", {"int8", "fp16"}, {"fp16"}, True),
        ("sm86", {"fp8"}, set(), False),
        ("sm89", {"fp8"}, {"fp32"}, True),
        ("sm120", {"bf16"}, {"bf16"}, True),
    ],
)
def test_targets(target: str, types: set[str], products: set[str], possible: bool) -> None:
    assert (obstacle(target, types, products) == "") == possible


@pytest.mark.parametrize(
    ("words", "gpu", "meaning"),
    [
        ("Cannot compile for target(s) sm75, because the model contains HW-specific datatypes: b16",
         None, "sm75 lacks a data type"),
        ("Cannot compile operation 'Gemm' for Turing (SM75): FP32 GEMM is not supported.",
         None, "Turing (sm75) cannot run this network"),
        ("Could not find any implementation for node {ForeignNode[a...b]}", L4, "--workspace"),
        ("Cuda Runtime (out of memory)", L4, "memory ran out"),
        ("cudaError 35: CUDA driver version is insufficient", None, "CUDA finds none here"),
        ("cudaError 35: CUDA driver version is insufficient", L4,
         "the driver is too old (it supports CUDA 12.4)"),
        ("Unable to load library: libnvinfer_lean.so.10", L4, "tensorrt-lean"),
        ("Target GPU SM 70 is not supported by this TensorRT release", L4, "--flavour rtx"),
        ("Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
         "Version tag does not match. Note: Current Version: 240, Serialized Engine Version: 239)",
         L4, "another version of TensorRT"),
        ("No importer registered for op: Nonsense", L4, "does not know"),
        ("Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported",
         None, "takes symmetric int8 alone"),
        ("linear.bias_DequantizeLinear: input has type Int32 but must have type FP8 (cudaError 35",
         None, "a bias is quantized to int32"),
        ("Failed attempt to rename a layer to q as the new name is already in use. cudaError 35: x",
         None, "give each node a name of its own"),
    ],
)  # fmt: skip
def test_what_tensorrt_says_is_explained(words: str, gpu: Gpu | None, meaning: str) -> None:
    sentence = explain(words, gpu)
    assert meaning in sentence
    assert sentence.endswith(f'; TensorRT said: "{words.rstrip(".")}"')


def test_words_that_nobody_knows_are_quoted_alone() -> None:
    assert explain("Something\n  else.", None) == 'TensorRT said: "Something else"'
    assert explain("", None) == "TensorRT said nothing"
    assert len(explain("x" * 5000, None)) < 500


def engine_json(read: str, kind: str = "Convolution") -> str:
    """One layer as TensorRT's inspector prints it with detailed verbosity."""
    tensor = {"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": read}
    one = {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [tensor],
        "ParameterType": kind,
        "TacticName": "sm80_xmma_fprop",
    }
    return json.dumps({"Layers": [one], "Bindings": ["x"]})


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Row major linear BFloat16 format", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("FP8 E4M3", "fp8"),
    ],
)
def test_the_inspectors_types(words: str, name: str) -> None:
    (row,) = inspected_table(engine_json(words))
    assert row == {
        "name": "conv1 + relu1",
        "kind": "Convolution",
        "inputs": [name],
        "outputs": [name],
        "tactic": "sm80_xmma_fprop",
    }
    assert inspected_mismatches([row], name) == []
    other = "fp32" if name == "fp16" else "fp16"
    assert inspected_mismatches([row], other) == [f"conv1 + relu1 reads {name}"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": 3}', '{"Layers": ["name only"]}'])
def test_an_inspector_that_says_nothing_is_no_failure(text: str) -> None:
    assert inspected_table(text) == []


class DynamicEngine:
    """Its batch is dynamic; the inspector is as NVIDIA describes setExecutionContext."""

    def __init__(self, memory: bool) -> None:
        self.context = SimpleNamespace(shapes={}) if memory else None
        if self.context is not None:
            self.context.set_input_shape = self.context.shapes.__setitem__

    def create_execution_context(self) -> SimpleNamespace | None:
        return self.context

    def create_engine_inspector(self) -> SimpleNamespace:
        inspector = SimpleNamespace(execution_context=None)

        def information(format: object) -> str:
            context = inspector.execution_context
            known = context is not None and context.shapes == {"x": [32, 3, 8, 8]}
            return engine_json("Half" if known else "N/A due to dynamic shapes")

        inspector.get_engine_information = information
        return inspector


@pytest.mark.parametrize(("memory", "read"), [(True, ["fp16"]), (False, [])])
def test_the_inspector_needs_the_shapes(memory: bool, read: list[str]) -> None:
    trt: Any = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON=1))
    engine: Any = DynamicEngine(memory)
    sizes = {size: [batch, 3, 8, 8] for size, batch in (("min", 1), ("opt", 32), ("max", 128))}
    (row,) = inspect_layers(trt, engine, {"x": sizes})
    assert row["inputs"] == read


STUB = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned f) { return %d; }
int cuDeviceGet(int *d, int i) { *d = i; return %d; }
int cuDeviceGetName(char *n, int len, int d) { strncpy(n, "NVIDIA L4", len); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = 24000000000; return 0; }
int cuDriverGetVersion(int *v) { *v = 13010; return 0; }
int cuDeviceGetPCIBusId(char *p, int len, int d) { strncpy(p, "0000:65:00.0", len); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 9; return 0; }
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a stub of libcuda.so.1 for Linux")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("init", "device", "found"),
    [
        (
            0,
            0,
            "Gpu(name='NVIDIA L4', capability='sm89', memory=24000000000, cuda='13.1') "
            "0000:65:00.0",
        ),
        (100, 0, "None None"),
        (0, 100, "None None"),
    ],
)
def test_the_driver_is_asked_for_the_gpu(
    tmp_path: Path, init: int, device: int, found: str
) -> None:
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so.1"
    source.write_text(STUB % (init, device))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = "from repvgg_deploy.engine import gpu; print(gpu.this_gpu(), gpu.pci_bus_id())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == found


class NoCuda(FakeTensorRT):
    """What the bindings do where CUDA is unusable: pybind11 for a null pointer."""

    def Builder(self, logger: Any) -> None:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def test_a_builder_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", NoCuda())
    monkeypatch.setattr(build, "this_gpu", lambda: L4)
    request = BuildRequest("tensorrt", "m.onnx", "m.engine", "fp16", BuildOptions())
    with pytest.raises(UserError, match=r"m.onnx: .* does not start: the driver is too old \(it"):
        build.build(request, lambda severity, message: None)


class FakeConfig:
    """TensorRT's timing cache, which TensorRT-RTX does not have; contents tell what fits."""

    def __init__(self) -> None:
        self.used: list[bytes] = []

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache in (b"", b"fits"):
            self.used.append(cache)
            return True
        return False


@pytest.mark.parametrize(
    ("content", "fits", "used"),
    [
        (None, True, [b""]),
        (b"fits", True, [b"fits"]),
        (b"of another version", False, [b""]),
        (b"damaged", False, [b""]),
    ],
)
def test_the_timing_cache(
    tmp_path: Path, content: bytes | None, fits: bool, used: list[bytes]
) -> None:
    path = tmp_path / "timing.cache"
    if content is not None:
        path.write_bytes(content)
    request = BuildRequest(
        *("tensorrt", "m.onnx", "engine", "fp16", BuildOptions()),
        timing_cache=None if content is None else str(path),
        new_cache=str(tmp_path / "new"),
    )
    config: Any = FakeConfig()
    assert use_timing_cache(config, request) == fits
    assert config.used == used
