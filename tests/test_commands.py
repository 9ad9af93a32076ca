"""The remaining commands, the help, and what the command line costs to start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from repvgg_deploy import __version__
from repvgg_deploy.cli.main import COMMANDS
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.models.zoo import ZOO
from repvgg_deploy.steps import doctor as doctor_step

from .conftest import Cli

HEAVY = (
    *("torch", "numpy", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "rich", "safetensors"),
    *("PIL", "matplotlib", "jinja2", "openvino"),
)


def test_models_table(cli: Cli) -> None:
    result = cli("models")
    assert result.code == 0
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(ZOO)]] == list(ZOO)
    assert lines[1].split()[1:6] == ["9,108,968", "8,309,384", "1.36", "0.75", "72.41"]
    rows = json.loads(cli("models", "--json").out)
    assert rows[10]["variant"]["name"] == "RepVGG-B3"
    assert rows[10]["counts"]["deploy_params"] == 110_960_872


def test_doctor_names_every_missing_part(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_step, "available", lambda name: None)
    monkeypatch.setattr("repvgg_deploy.engine.flavour.available", lambda name: None)
    monkeypatch.setattr(doctor_step, "this_gpu", lambda: Gpu("NVIDIA L4", "sm89", 1, "13.0"))
    result = cli("doctor")
    assert result.code == 0
    for extra in ("cpu", "rtx", "tensorrt", "hub"):
        assert f'-> pip install "repvgg-deploy[{extra}]"' in result.out
    assert "export --trt uses  nothing" in result.out


def test_doctor_as_it_is_here(cli: Cli) -> None:
    findings = {f["part"]: f for f in json.loads(cli("doctor", "--json").out)}
    assert findings["torch"]["usable"] is True
    assert {"torch-cpu", "onnxruntime-cpu"} <= set(findings["bench uses"]["detail"].split(", "))


def test_doctor_sees_both_onnxruntimes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_step, "_installed", lambda package: True)
    out = cli("doctor").out
    assert "onnxruntime and onnxruntime-gpu are both installed" in out
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in out


def test_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    monkeypatch.setattr("repvgg_deploy.steps.bench_runtimes.cpp_compiler", lambda: None)  # slow
    result = cli("demo")
    assert result.code == 0, result.err
    for word in ("fused and proved", "checks passed", "faster by", "512 images"):
        assert word in result.err
    folder = Path("engines/demo")
    networks = json.loads((folder / "evaluation.json").read_text())["networks"]
    assert len(networks) >= 4
    for network in networks:
        assert network["scores"]["top1"]["value"] > 0.91
    assert str(folder / "report.html") in result.err
    report = json.loads((folder / "report.json").read_text())
    assert report["speed"] is not None
    assert len(report["evaluation"]["networks"]) == len(networks)


def test_demo_without_the_extra_says_how_to_get_a_report(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for step in ("export", "verify", "bench", "evaluate"):  # test_demo runs them
        monkeypatch.setattr(
            f"repvgg_deploy.cli.{step}.command", click.Command(step, callback=lambda **given: None)
        )
    result = cli("demo")
    assert result.code == 0, result.err
    last = result.err.splitlines()[-1]
    assert last == 'no report: pip install "repvgg-deploy[report]", then run repvgg-deploy report'
    assert not Path("engines/demo/report.html").exists()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light(command: str) -> None:
    """--help imports none of the heavy packages."""
    arguments = [command, "--help"] if command else ["--help"]
    code = (
        "import sys\n"
        f"sys.argv = ['repvgg-deploy', *{arguments}]\n"
        "from repvgg_deploy.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: repvgg-deploy" in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_is_light() -> None:
    code = f"import sys, repvgg_deploy; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_python_dash_m() -> None:
    command = [sys.executable, "-m", "repvgg_deploy", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"repvgg-deploy, version {__version__}\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout(monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "repvgg_deploy", "models"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr


def test_unknown_commands_and_options(cli: Cli) -> None:
    for arguments in (["fuze"], ["fuse"], ["fuse", "x", "--nonsense"]):
        result = cli(*arguments)
        assert result.code == 2
        assert "Traceback" not in result.err
        assert not Path("engines").exists()
    assert "Did you mean 'fuse'?" in cli("fuze", "x").err
