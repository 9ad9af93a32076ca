"""Engines are loaded where they belong, and every reason why not is one sentence."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repvgg_deploy.engine import gpu, load
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.engine.load import LoadedEngine, read_engine
from repvgg_deploy.engine.logger import make_logger
from repvgg_deploy.errors import UserError
from repvgg_deploy.sidecar import sidecar_path

from .engine_files import Machine, doubling, fake_machine
from .fake_tensorrt import FakeTensorRT, Severity

Patch = pytest.MonkeyPatch


@pytest.fixture
def machine(monkeypatch: Patch) -> Machine:
    return fake_machine(monkeypatch)


@pytest.fixture
def engine(machine: Machine, tmp_path: Path) -> Path:
    return machine.engine(tmp_path / "fp32.tensorrt.engine", doubling())


def sentence(path: Path) -> str:
    """Why the engine does not load."""
    with pytest.raises(UserError) as refused:
        read_engine(path).deserialize()
    text = str(refused.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_an_engine_loads_with_what_it_needs_kept_alive(engine: Path, machine: Machine) -> None:
    loaded: LoadedEngine = read_engine(engine).deserialize()
    assert loaded.engine.num_io_tensors == 2
    assert loaded.artifact.flavour == "tensorrt"
    assert loaded.messages.warnings == ["lazy loading is off"]
    assert len(loaded.keep) == 2


def change_sidecar(path: Path, **changes: object) -> None:
    sidecar = sidecar_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def truncate(path: Path, machine: Machine) -> None:
    path.write_bytes(path.read_bytes()[:10])


def lose_the_sidecar(path: Path, machine: Machine) -> None:
    sidecar_path(path).unlink()


def damage_the_sidecar(path: Path, machine: Machine) -> None:
    sidecar_path(path).write_text("{" * 50_000)


def unknown_flavour(path: Path, machine: Machine) -> None:
    change_sidecar(path, flavour="../../openvino")


def another_version(path: Path, machine: Machine) -> None:
    machine.tensorrt.__version__ = "11.4.0"


def another_gpu(path: Path, machine: Machine) -> None:
    change_sidecar(path, targets=["sm86"])


def unknown_to_tensorrt(path: Path, machine: Machine) -> None:
    machine.tensorrt.engines.clear()


def no_runtime(path: Path, machine: Machine) -> None:
    machine.tensorrt.refuses_to_start = True


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (truncate, "is not the file that fp32.tensorrt.engine.json describes"),
        (lose_the_sidecar, r"fp32.tensorrt.engine.json: no such file"),
        (damage_the_sidecar, "is damaged"),
        (unknown_flavour, "'../../openvino' is no flavour of TensorRT"),
        (another_version, "does not load here.*10.13.0.*11.4.0.*export it again"),
        (another_gpu, "does not load here.*sm86.*Fake GPU.*sm89"),
        (unknown_to_tensorrt, "does not load it: .*TensorRT said: .*magic tag does not match"),
        (no_runtime, "runtime does not start: .*CUDA initialization failure with error: 35"),
    ],
)
def test_why_an_engine_does_not_load(
    engine: Path, machine: Machine, fault: Callable[[Path, Machine], None], words: str
) -> None:
    fault(engine, machine)
    assert re.search(words, sentence(engine))


def test_an_engine_that_is_gone(engine: Path) -> None:
    engine.unlink()
    assert "is not the file that" in sentence(engine)


def test_no_driver(engine: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(load, "this_gpu", lambda: None)
    monkeypatch.setattr(gpu, "driver", lambda: None)
    assert "no CUDA driver is installed here; use the ONNX model" in sentence(engine)


class NoDevice:
    """A driver without a GPU: CUDA_ERROR_NO_DEVICE."""

    def cuInit(self, flags: int) -> int:
        return 100


def test_a_driver_that_sees_no_gpu(engine: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(gpu, "driver", NoDevice)
    monkeypatch.setattr(load, "this_gpu", gpu.this_gpu)
    assert "the CUDA driver here sees no GPU (cuInit says error 100)" in sentence(engine)


def test_a_driver_too_old(engine: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(load, "this_gpu", lambda: Gpu("T4", "sm89", 1, "12.4"))

    def version(package: str) -> str:
        if package != "tensorrt_cu13":
            raise load.metadata.PackageNotFoundError
        return "10.13.0"

    monkeypatch.setattr(load.metadata, "version", version)
    text = sentence(engine)
    assert "it supports CUDA 12.4, and the installed TensorRT needs 13.0" in text
    monkeypatch.setattr(load, "this_gpu", lambda: Gpu("T4", "sm89", 1, "13.1"))
    assert read_engine(engine).gpu.cuda == "13.1"


def test_the_flavour_is_not_installed(engine: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not there
    with pytest.raises(UserError, match=re.escape('pip install "repvgg-deploy[tensorrt]"')):
        read_engine(engine)


@pytest.mark.parametrize(
    ("options", "swapped", "allowed"),
    [
        ({"version_compatible": True}, False, True),
        ({"version_compatible": True}, True, False),
        ({"version_compatible": "yes"}, False, False),
        ({}, False, False),
    ],
)
def test_host_code_runs_only_from_the_bytes_that_the_sidecar_describes(
    machine: Machine, tmp_path: Path, options: dict[str, object], swapped: bool, allowed: bool
) -> None:
    path = machine.engine(tmp_path / "x.engine", doubling(), options=options)
    file = read_engine(path)
    if swapped:  # between the check of the sidecar and now
        other = machine.engine(tmp_path / "y.engine", doubling())
        file = load.CheckedEngine(path, file.artifact, file.trt, file.gpu, other.read_bytes())
    file.deserialize()
    assert machine.tensorrt.host_code == [allowed]


def test_the_logger_hands_on_what_is_said() -> None:
    said: list[tuple[str, str]] = []
    logger = make_logger(FakeTensorRT(), lambda severity, message: said.append((severity, message)))
    for severity in Severity:
        logger.log(severity, f" {severity.name} \n")  # type: ignore[attr-defined]
    assert said == [
        ("error", "INTERNAL_ERROR"),
        ("error", "ERROR"),
        ("warning", "WARNING"),
        ("info", "INFO"),
        ("verbose", "VERBOSE"),
    ]


def test_only_the_last_messages_are_kept() -> None:
    messages = load.Messages()
    for number in range(1000):
        messages.add("error", f"error {number}")
        messages.add("verbose", "much")
    assert messages.last_error == "error 999"
    assert len(messages._said) < 100
