"""The Protocols of repvgg_deploy/engine hold for the real Python bindings of each TensorRT.

The bindings come from PyPI, TensorRT itself does not: libraries that only define the entry points
let them import. mypy holds our code to the Protocols, and test_tensorrt_typed.py sees to that.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any, NoReturn

import pytest

from repvgg_deploy.engine import api, module, rtx_api

from . import tensorrt_api_dump
from .tensorrt_api import broken_promises
from .tensorrt_wheels import VERSIONS, folder

RTX = "tensorrt_rtx"

#: What the bindings of TensorRT take from its libraries: nm -D --undefined-only tensorrt.so
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def lacking(reason: str) -> NoReturn:
    """Skip; but CI (.ci/run) has to check every version."""
    if os.environ.get("TENSORRT_CONTRACT") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with TensorRT's libraries, which are one and can do nothing."""
    place = tmp_path_factory.mktemp("stubs")
    compiler = which("cc")
    if compiler is None:
        lacking("needs a C compiler, cc, for the libraries that the bindings of TensorRT ask for")
    source, library = place / "stub.c", place / "stub.so"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    for major in {version.split(".")[0] for version in VERSIONS}:
        for name in LIBRARIES:
            (place / f"lib{name}.so.{major}").symlink_to(library)
    return place


def dump(name: str, **environment: str) -> dict[str, Any]:
    """The Python API of a TensorRT module, read in a process of its own."""
    command = [sys.executable, tensorrt_api_dump.__file__, name]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return dict(json.loads(result.stdout))


@functools.cache
def rtx() -> dict[str, Any]:
    if find_spec(RTX) is None:
        lacking("needs the extra rtx, which this platform lacks")
    return dump(RTX)


def test_rtx() -> None:
    broken = broken_promises(rtx(), [api, module, rtx_api])
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt(version: str, request: pytest.FixtureRequest) -> None:
    if sys.platform != "linux":
        lacking("the bindings of TensorRT import without TensorRT on Linux only")
    place = folder(version)
    if not place.is_dir():
        lacking(f"no bindings of TensorRT {version}: python -m tests.tensorrt_wheels installs them")
    libraries = f"{request.getfixturevalue('stubs')}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    real = dump("tensorrt_bindings", LD_LIBRARY_PATH=libraries, PYTHONPATH=str(place))
    broken = broken_promises(real, [api, module])
    assert not broken, "\n".join(broken)


ROOT = "class Root(TensorRT, Protocol):\n"
HEADER = """
from typing import Protocol
from repvgg_deploy.engine import api
from repvgg_deploy.engine.module import TensorRT
"""


def told(source: str) -> str:
    """What is said of a module of Protocols, up to what the real class has."""
    wrong = ModuleType("wrong")
    exec(HEADER + source, vars(wrong))
    return "".join(line.partition("it has")[0] for line in broken_promises(rtx(), [wrong]))


@pytest.mark.parametrize(
    ("promise", "broken"),
    [
        ("class NoSuch(Protocol): ...", "NoSuch: "),
        ("class Builder(Protocol):\n def build(self) -> int: ...", "Builder.build: "),
        ("class Builder(Protocol):\n speed: int", "Builder.speed: "),
        ("class ILayer(Protocol):\n num_inputs: int", "ILayer.num_inputs: "),  # read only
        (
            "class ILayer(Protocol):\n @property\n def num_inputs(self) -> str: ...",
            "ILayer.num_inputs: ",
        ),
        (
            "class ITensor(Protocol):\n def __buffer__(self, f: int, /) -> memoryview: ...",
            "ITensor.__buffer__: ",
        ),
    ],
)
def test_a_class_that_is_otherwise(promise: str, broken: str) -> None:
    assert told(promise) == broken


@pytest.mark.parametrize(
    "method",
    [
        "deserialize(self, data: bytes) -> bool",
        "deserialize(self, blob: str) -> bool",
        "deserialize(self, blob: bytes) -> int",
        "deserialize(self, blob: bytes, strict: bool) -> bool",
        "deserialize(self, blob: bytes = b'') -> bool",
        "deserialize(self) -> bool",
    ],
)
def test_a_call_that_is_otherwise(method: str) -> None:
    """It is deserialize(self, blob: Buffer) -> bool."""
    promise = f"class IRuntimeCache(Protocol):\n def {method}: ..."
    assert told(promise) == "IRuntimeCache.deserialize: "


@pytest.mark.parametrize(
    ("kind", "member", "broken"),
    [
        ("DataType", "FP3: int", "DataType.FP3: "),
        ("NoSuch", "ONE: int", "NoSuch: NoSuch.ONE: "),
        ("ComputeCapability", "SM1: int", "ComputeCapability.SM1: "),
        (
            "ComputeCapability",
            "def __getitem__(self, name: str) -> int: ...",
            "ComputeCapability.__getitem__: ",
        ),
        (
            "ComputeCapability",
            "@property\n def __names__(self) -> int: ...",
            "ComputeCapability.__names__: ",
        ),
    ],
)
def test_an_enum_that_is_otherwise(kind: str, member: str, broken: str) -> None:
    enum = f"class {kind}(Protocol):\n {member}"
    assert told(f"{enum}\n{ROOT} @property\n def {kind}(self) -> {kind}: ...") == broken


def test_a_nested_enum_that_is_otherwise() -> None:
    enum = "class Severity(Protocol):\n FATAL: int"
    assert told(f"{enum}\n{ROOT} @property\n def Logger(self) -> Severity: ...") == "Logger.FATAL: "


@pytest.mark.parametrize(
    ("constructor", "broken"),
    [
        ("def Builder(self, log: object) -> api.Builder: ...", "Builder(self, log"),
        ("def Builder(self, logger: object) -> api.Runtime: ...", "Builder(self, logger"),
        ("def NoSuch(self) -> api.Builder: ...", "NoSuch(self)"),
    ],
)
def test_a_constructor_that_is_otherwise(constructor: str, broken: str) -> None:
    assert told(f"{ROOT} {constructor}").startswith(broken)
