"""Every command that writes, killed or interrupted at the moments at which it changes files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from repvgg_deploy.cli.main import _recover, main
from repvgg_deploy.steps import fuse as fuse_step

from .helpers import training_state
from .moments import at_each_call, copies_at_each_moment, files, hidden
from .test_fuse_onnx_files import external_model, rename
from .test_transaction import in_child, needs_fork

Command = tuple[str, ...]


def run(*command: str) -> int:
    """The exit code of ``repvgg-deploy`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["repvgg-deploy", *command])
        with pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read, and ``ready``, a workspace with a fused and exported model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("ckpt.pth", "other.pth")):
        torch.save(training_state(seed=seed), folder / name)
    images = np.random.default_rng(0).normal(size=(24, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "x.npz", x=images, y=np.arange(24) % 5)
    external_model(folder / "one")
    external_model(folder / "two", lambda model: rename(model, "half", 0.25))
    for name in ("one", "two"):
        model = onnx.load(folder / name / "model.onnx")
        onnx.save(model, folder / f"{name}.onnx")
    (folder / "ready").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "ready")
        assert run("fuse", str(folder / "other.pth")) == 0
        assert run("fuse", str(folder / "ckpt.pth"), "--eps", "0.001", "--pth") == 0
        assert run("export", "--onnx", "--size", "32") == 0
        assert run("fuse", str(folder / "other.pth")) == 0  # ckpt is not the current model
    return folder


@dataclass(frozen=True)
class Case:
    """``before`` are commands that make the old files; ``states``: how many states of the folder
    are whole, the old one and one for each step of the command that is finished. A command that
    takes long is run less often."""

    command: Command
    before: tuple[Command, ...] = ()
    states: int = 2
    needs: str = ""
    takes_long: bool = False

    def __str__(self) -> str:
        return " ".join(self.command).replace("IN/", "")


CASES = [
    Case(("fuse", "IN/ckpt.pth")),  # removes fused.pth
    Case(("fuse", "IN/ckpt.pth", "--pth")),
    Case(("fuse", "IN/one.onnx")),
    Case(
        ("fuse", "IN/two.onnx", "-o", "out/b.onnx"),
        (("fuse", "IN/one.onnx", "-o", "out/b.onnx"),),
    ),
    Case(
        ("fuse", "IN/two/model.onnx", "-o", "out/b.onnx"),
        (("fuse", "IN/one/model.onnx", "-o", "out/b.onnx"),),
    ),
    Case(("export", "--onnx", "--fp16", "--size", "32", "--model", "ckpt")),
    Case(("export", "--onnx", "--size", "64", "--model", "ckpt")),
    Case(
        ("export", "--trt", "fp16", "--size", "32", "--model", "ckpt"),
        states=3, needs="tensorrt_rtx", takes_long=True,
    ),
    Case(
        ("quantize", "--calib", "IN/x.npz", "--method", "quick", "--no-stem", "--model", "ckpt"),
        (("quantize", "--calib", "IN/x.npz", "--method", "quick", "--model", "ckpt"),),
        takes_long=True,
    ),
    Case(("evaluate", "--data", "IN/x.npz", "--model", "ckpt")),
    Case(("bench", "--duration", "0.02", "--threads", "1", "--no-roofline", "--runtime",
          "torch-cpu", "--size", "32", "--model", "ckpt"), takes_long=True),
    Case(("report", "--model", "ckpt"), needs="matplotlib", takes_long=True),
    Case(
        ("serve", "--triton", "repo", "--model", "ckpt"),
        (("serve", "--triton", "repo", "--model", "ckpt"),
         ("export", "--onnx", "--size", "64", "--model", "ckpt")),
    ),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=str)
def case(
    request: pytest.FixtureRequest, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Case:
    """Its old files are in ``old``."""
    found: Case = request.param
    if found.needs:
        pytest.importorskip(found.needs)
    named = [
        tuple(argument.replace("IN/", f"{inputs}/") for argument in command)
        for command in (found.command, *found.before)
    ]
    shutil.copytree(inputs / "ready", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    for command in named[1:]:
        assert run(*command) == 0
    return replace(found, command=named[0])


def start(root: Path) -> Path:
    """A copy of the old files, as the working folder."""
    shutil.copytree(root.parent / "old", root)
    os.chdir(root)
    return root


def check_whole(root: Path) -> None:
    """Every sidecar is that of the file beside it, and every model has its data."""
    for sidecar in root.rglob("*.json"):
        recorded = json.loads(sidecar.read_text())
        if recorded.get("file") == sidecar.stem:
            found = sidecar.with_suffix("").read_bytes()
            assert recorded["sha256"] == hashlib.sha256(found).hexdigest()
    for path in root.rglob("*.onnx"):
        onnx.load(path)
    assert not hidden(root)


def changes(old: dict[str, bytes], new: dict[str, bytes]) -> frozenset[str]:
    """The names of files that differ; times that were measured differ from run to run."""
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def test_killed_or_interrupted(case: Case, tmp_path: Path) -> None:
    """SIGKILL leaves the disk as it is at that moment, and that is what the next run finds."""
    old, root = files(tmp_path / "old"), start(tmp_path / "work")
    codes: list[int] = []
    copies = copies_at_each_moment(
        lambda: codes.append(run(*case.command)), root, tmp_path / "copies"
    )
    assert codes == [0]
    new = files(root)
    check_whole(root)
    half = next(n for n, copy in enumerate(copies) if any(copy.rglob("commit.json"))) + 4
    rerun = {half} if case.takes_long else {0, half - 8, half, len(copies) - 1}
    states = {changes(old, old), changes(old, new)}
    for number, copy in enumerate(copies):
        os.chdir(copy)
        if number in rerun:
            assert run(*case.command) == 0, number
            assert files(copy).keys() == new.keys(), number
        else:
            _recover(("--engines", "engines", *case.command))
            states.add(changes(old, files(copy)))
        check_whole(copy)
    assert len(states) == case.states

    moments = ((half, "INT"), (half + 2, "TERM"), (half - 5, "INT"), (2, "TERM"))
    for moment, signalled in moments[: 1 if case.takes_long else 4]:
        root = start(tmp_path / f"{moment}")
        number = getattr(signal, f"SIG{signalled}")
        with at_each_call(raising(moment, number)):
            assert run(*case.command) == (1 if signalled == "INT" else 143)
        check_whole(root)
        assert changes(old, files(root)) in states


def raising(moment: int, number: signal.Signals) -> Callable[[int], None]:
    def send(now: int) -> None:
        if now == moment:
            signal.raise_signal(number)

    return send


@needs_fork
@pytest.mark.parametrize("pth", [(), ("--pth",)])
def test_sigkill_before_the_third_rename(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pth: Command
) -> None:
    """A real one; the next run used to refuse what it found, or took it for whole."""
    monkeypatch.chdir(tmp_path)
    command: Command = ("fuse", str(inputs / "one.onnx"))
    reads: Command = ("verify", command[1], "engines/one/fused.onnx")
    if pth:
        command, reads = ("fuse", str(inputs / "ckpt.pth"), *pth), ("verify",)
    renames = []

    def killed() -> None:
        replace = os.replace

        def kill(source: Path, target: Path) -> None:
            renames.append(target)
            if len(renames) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = kill  # type: ignore[assignment]
        run(*command)

    assert in_child(killed) == -signal.SIGKILL
    assert hidden(tmp_path)
    assert run(*reads) == 0  # a command that writes nothing itself
    check_whole(tmp_path)
    assert run(*command) == 0
    check_whole(tmp_path)


@pytest.mark.parametrize("other", [False, True])
def test_two_fuses_under_one_name(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The second starts and ends while the first proves its weights."""
    monkeypatch.chdir(tmp_path)
    prove, ends = fuse_step._prove, []

    def meanwhile(*given: Any) -> Any:
        if not ends:
            ends.append(0)
            checkpoint = inputs / ("other.pth" if other else "ckpt.pth")
            ends[0] = run("fuse", str(checkpoint), "--name", "m", "--pth")
        return prove(*given)

    monkeypatch.setattr(fuse_step, "_prove", meanwhile)
    code = run("fuse", str(inputs / "ckpt.pth"), "--name", "m")
    assert ends == [0]
    check_whole(tmp_path)
    if other:  # as where the other was there from the start
        assert code == 1
        assert "holds a model made from another checkpoint" in capfd.readouterr().err
        assert Path("engines/m/fused.pth").exists()
    else:
        assert code == 0
        assert "another run wrote it meanwhile" in capfd.readouterr().err
        assert not Path("engines/m/fused.pth").exists()


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("fuse", "IN/ckpt.pth"), "engines/ckpt/fused.safetensors"),
        (("fuse", "IN/ckpt.pth", "--pth"), "engines/ckpt/fused.pth"),
        (("fuse", "IN/one.onnx"), "engines/one/fused.onnx"),
        (("fuse", "IN/one/model.onnx", "-o", "a/b/c.onnx"), "a/b/c.onnx"),
        (("export", "--onnx", "--model", "ckpt"), "engines/ckpt/fp32.onnx"),
        (("evaluate", "--data", "IN/x.npz", "--model", "ckpt"), "engines/ckpt/evaluation.json"),
        (("serve", "--triton", "repo", "--model", "ckpt"), "repo/ckpt_fp32_onnx/1/model.onnx"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_a_disk_that_is_full(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, file: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The file to be is named, and not even an empty folder stays. The limit of a process on the
    size of its files takes the place of the disk's."""
    resource = pytest.importorskip("resource")
    shutil.copytree(inputs / "ready", tmp_path / "old")
    root = start(tmp_path / "work")
    before = sorted(root.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        code = run(*(argument.replace("IN/", f"{inputs}/") for argument in command))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capfd.readouterr().err.splitlines()[-1]
    assert code == 1
    assert said.startswith(f"Error: {file}: cannot be written: it is larger than the system allows")
    assert sorted(root.rglob("*")) == before
