"""Fixtures that many tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from repvgg_deploy.bench.roofline import ceilings
from repvgg_deploy.bench.roofline.peaks import Peaks
from repvgg_deploy.cli.main import main
from repvgg_deploy.engine import compatible
from repvgg_deploy.engine.gpu import Gpu

from .helpers import training_state

# How long an example takes says what else the machine has to do.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The suite runs on two workers, and more threads than cores only wait; bench sets its own."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring them takes ten seconds on an idle machine, and minutes where bf16 is emulated.
    Those of a busy CPU are neither used nor kept."""
    busy = Peaks({"fp32": 1e12}, 1e11, granted=0.5)
    monkeypatch.setattr(ceilings, "measure_peaks", lambda device, threads: busy)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``repvgg-deploy`` in this process, in an empty folder, as the shell would."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["repvgg-deploy", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        code = stop.value.code
        return Outcome(int(code) if code is not None else 0, out, err)

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny training checkpoint on disk."""
    path = tmp_path / "ckpt.pth"
    torch.save(training_state(), path)
    return path


@pytest.fixture
def pipeline(cli: Cli, checkpoint: Path) -> Cli:
    """A fused model, exported at 32x32, in the current folder."""
    assert cli("fuse", checkpoint).code == 0
    assert cli("export", "--onnx", "--size", "32").code == 0
    return cli


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Whatever it is that the tests run on, an engine meets this GPU and these versions."""

    def has(gpu: Gpu | None, **versions: str) -> None:
        monkeypatch.setattr(compatible, "this_gpu", lambda: gpu)
        monkeypatch.setattr(compatible, "installed_version", versions.get)

    return has
