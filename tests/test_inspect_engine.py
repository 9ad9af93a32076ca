"""inspect ENGINE: what the sidecar or the header says, whether the engine loads here, --strip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from repvgg_deploy import sidecar
from repvgg_deploy.engine.gpu import Gpu, this_platform
from repvgg_deploy.files import sha256_file
from repvgg_deploy.report.inspect_engine import engine_text
from repvgg_deploy.sidecar import sidecar_path
from repvgg_deploy.steps.inspect_engine import inspect_engine

from .conftest import Cli
from .engines import ADA, AMPERE, plan, rtx_engine, store_engine, with_header
from .helpers import GOLDEN

METADATA = {"description": "YOLO\n\x1b[31mloads here", "names": {"0": "person"}, "imgsz": [64, 64]}


def test_an_engine_with_its_sidecar(cli: Cli, machine: Any) -> None:
    machine(ADA, tensorrt="10.13.3.9")
    path = Path("m.engine")
    store_engine(path, plan(), warnings=["slow\nfp32"])
    result = cli("inspect", path)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "m.engine: TensorRT 10.13.3.9, fp16"
    facts = [line.split(maxsplit=1) for line in lines[1:-4]]
    assert ["sha256", sha256_file(path)] in facts
    assert ["input", "x  fp16  Nx3x8x8"] in facts
    assert ["output", "y  fp32  Nx5"] in facts
    assert ["profile", "x  1x3x8x8 to 16x3x8x8, tuned for 4x3x8x8"] in facts
    assert ["options", "workspace 1073741824"] in facts
    assert ["made", f"from  fp16.onnx, sha256 {'1' * 64}"] in facts
    assert ["that", f"from  /data/ckpt.pth, sha256 {'3' * 64}"] in facts
    assert ["built", "for  sm89 (NVIDIA GeForce RTX 4090)"] in facts
    assert ["warning", "slow\\nfp32"] in facts
    assert ["proof", "none: built, not run"] in facts
    assert lines[-4].split() == ["layer", "kind", "reads", "weighs", "with", "writes"]
    assert lines[-3].split() == ["conv", "convolution", "fp16", "fp16", "fp16"]
    assert lines[-2].split() == ["head", "convolution", "fp16", "fp16", "fp32"]
    assert lines[-1].startswith("should load here (compared, not tried)")


def test_json_has_everything(cli: Cli, machine: Any) -> None:
    machine(AMPERE, tensorrt="10.16.1.11")
    made = store_engine(Path("m.engine"), plan(), proof={"passed": True, "worst": 0.5})
    result = cli("inspect", "m.engine", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["sidecar"] == json.loads(sidecar.to_json(made))
    assert found["sha256"] == made.sha256
    assert found["file"]["plan"]["version"] == "10.13.3.9"
    assert found["machine"]["version"] == "10.16.1.11"
    assert found["machine"]["gpu"]["capability"] == "sm86"
    assert found["verdict"]["loads"] is False
    assert len(found["verdict"]["differences"]) == 2


def test_what_the_finished_engine_says(machine: Any, tmp_path: Path) -> None:
    """Where there was a GPU to ask: a layer that the builder fused, and a failed proof."""
    machine(ADA, tensorrt="10.13.3.9")
    row = {"name": "conv + relu", "kind": "Conv", "inputs": ["fp16"], "outputs": ["fp16", "fp32"]}
    store_engine(tmp_path / "m.engine", plan(), inspected=[row], proof={"passed": False})
    text = engine_text(inspect_engine(tmp_path / "m.engine"))
    assert "proof      FAILED" in text
    rows = [re.split(" {2,}", line) for line in text.splitlines()]
    assert ["layer of the finished engine", "kind", "reads", "writes"] in rows
    assert ["conv + relu", "Conv", "fp16", "fp16, fp32"] in rows


def test_another_model_of_gpu_is_a_note(cli: Cli, machine: Any) -> None:
    machine(Gpu("NVIDIA L4", "sm89", 24 << 30, "13.0"), tensorrt="10.13.3.9")
    store_engine(Path("m.engine"), plan())
    lines = cli("inspect", "m.engine").out.splitlines()
    assert lines[-2].startswith("note: it was built on NVIDIA GeForce RTX 4090")
    assert lines[-1].startswith("should load here")


def test_a_real_engine_of_rtx(cli: Cli, machine: Any, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    rtx = {"flavour": "rtx", "version": trt.__version__, "gpu": None, "targets": ["sm86", "sm89"]}
    store_engine(Path("m.engine"), rtx_engine(tmp_path, ("sm86", "sm89")), **rtx)
    machine(None, rtx=trt.__version__)
    result = cli("inspect", "m.engine")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "does not load here: CUDA finds no GPU here"
    machine(ADA, rtx=trt.__version__)
    assert "\nshould load here" in cli("inspect", "m.engine").out
    sidecar_path(Path("m.engine")).unlink()
    lines = cli("inspect", "m.engine").out.splitlines()
    assert "built for  sm86, sm89" in lines
    assert lines[-1].startswith("should load here")


def test_this_machine_is_asked(cli: Cli, tmp_path: Path) -> None:
    """Without a fake: what is installed and plugged in is what it says."""
    store_engine(Path("m.engine"), plan(version=(10, 0, 0, 1)), version="10.0.0.1")
    found = json.loads(cli("inspect", "m.engine", "--json").out)
    assert found["machine"]["platform"] == this_platform()
    assert found["verdict"]["loads"] is False  # by a release that nobody has here
    assert "it was built by TensorRT 10.0.0.1" in found["verdict"]["sentence"]


def test_an_engine_without_sidecar(cli: Cli, machine: Any) -> None:
    machine(ADA, tensorrt="10.13.3.9")
    Path("m.plan").write_bytes(plan())
    result = cli("inspect", "m.plan")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "m.plan: TensorRT 10.13.3.9"
    assert "sidecar  none; this is all that the header tells" in lines
    assert lines[-1].startswith("whether it loads here cannot be told: ")


@pytest.mark.parametrize("name", ["m.onnx", "m.pth", "m"])
def test_an_engine_by_another_name(cli: Cli, machine: Any, name: str) -> None:
    machine(None)
    Path(name).write_bytes(plan())
    result = cli("inspect", name)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == f"{name}: TensorRT 10.13.3.9"


def test_an_onnx_model_named_engine(cli: Cli) -> None:
    content = (GOLDEN / "official_plain.onnx").read_bytes()
    Path("m.engine").write_bytes(content)
    result = cli("inspect", "m.engine")
    assert result.code == 1
    assert "m.engine: is no TensorRT engine" in result.err


def test_a_header_of_ultralytics_comes_off(cli: Cli, machine: Any) -> None:
    machine(ADA, tensorrt="10.13.3.9")
    path, plain = Path("yolo.engine"), Path("yolo.plain.engine")
    path.write_bytes(with_header(plan(), json.dumps(METADATA).encode()))
    before = path.read_bytes()
    result = cli("inspect", path)
    assert result.code == 0
    assert "description: YOLO\\n\\x1b[31mloads here" in result.out
    assert 'names: {"0": "person"}' in result.out
    assert "TensorRT refuses" in result.out.splitlines()[-1]
    assert "inspect --strip" in result.out
    assert json.loads(cli("inspect", path, "--json").out)["file"]["metadata"] == METADATA
    assert not plain.exists()
    for _ in range(2):  # the same engine may stand there already
        result = cli("inspect", path, "--strip")
        assert result.code == 0
        assert "yolo.plain.engine" in result.err
        assert plain.read_bytes() == plan()
    assert cli("inspect", path, "--strip", "-o", "elsewhere/model.plan").code == 0
    assert Path("elsewhere/model.plan").read_bytes() == plan()
    assert path.read_bytes() == before


def test_strip_destroys_nothing(cli: Cli, machine: Any) -> None:
    machine(ADA, tensorrt="10.13.3.9")
    path = Path("yolo.engine")
    path.write_bytes(with_header(plan(), b"{}"))
    Path("yolo.plain.engine").write_text("precious")
    before = path.read_bytes()
    Path("folder").mkdir()
    for output in ("yolo.plain.engine", "yolo.engine", "folder"):
        result = cli("inspect", path, "--strip", "--output", output)
        assert result.code == 1
        assert f"{output}: " in result.err
        assert "stands there" in result.err
    assert Path("yolo.plain.engine").read_text() == "precious"
    assert path.read_bytes() == before
    assert sorted(p.name for p in Path().iterdir()) == [
        "folder",
        "yolo.engine",
        "yolo.plain.engine",
    ]


def test_strip_refuses_a_plain_engine(cli: Cli, machine: Any) -> None:
    machine(ADA, tensorrt="10.13.3.9")
    Path("m.engine").write_bytes(plan())
    result = cli("inspect", "m.engine", "--strip")
    assert result.code == 1
    assert "m.engine: has no header to strip" in result.err
    assert [p.name for p in Path().iterdir()] == ["m.engine"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["m.engine", "--eps", "0.1"], "--eps has no effect here: m.engine is a TensorRT engine"),
        (["m.engine", "--allow-costlier"], "--allow-costlier has no effect here"),
        (["m.engine", "-o", "x"], "--output has no effect here: only --strip writes a file"),
        ([GOLDEN / "official_plain.pth", "--strip"], "--strip has no effect here"),
        ([GOLDEN / "official_plain.onnx", "--strip"], "is no TensorRT engine"),
    ],
)
def test_options_without_effect(cli: Cli, arguments: list[object], sentence: str) -> None:
    Path("m.engine").write_bytes(plan())
    result = cli("inspect", *arguments)
    assert result.code == 2
    assert sentence in result.err
