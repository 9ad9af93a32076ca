"""What bench makes of bad input: the others go on, and what is wrong is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from repvgg_deploy.files import sha256_file
from repvgg_deploy.runners.onnx_runtime import OrtRunner
from repvgg_deploy.runners.torch_network import TorchRunner
from repvgg_deploy.sidecar import sidecar_path

from .bench_runs import ONNX, ORT, QUICK, RECORD, TORCH, interrupting, measured, record
from .conftest import Cli


def change_weights(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Of an exported model's first convolution; its sidecar says that this is the file."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, path)
    sidecar = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({**sidecar, "sha256": sha256_file(path)}))


def test_results_that_differ_are_told_before_the_speed(pipeline: Cli) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32(1.01))
    result = pipeline("bench", *ORT, *QUICK, "--json")
    assert result.code == 3
    first = next(line for line in result.err.splitlines() if "fused:" in line)
    assert first.startswith("RESULTS DIFFER: onnxruntime-cpu, batch 1: fused: results differ: ")
    assert "times the reference's own rounding error" in first
    assert result.err.index(first) < result.err.index("faster by")
    (contest,) = record(result)["contests"]
    assert [doubt for doubt in contest["doubts"] if doubt.startswith("fused: results differ")]
    assert RECORD.exists()


def test_nan_outputs_fail_the_check_and_the_others_go_on(pipeline: Cli) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32("nan"))
    result = pipeline("bench", *ORT, *QUICK, "--json")
    assert result.code == 3, result.err
    (contest,) = record(result)["contests"]
    assert measured(contest) == ["unfused", "unfused, conv-BN folded"]
    assert contest["failures"] == [
        {"label": "fused", "reason": "its output holds NaN or infinity."}
    ]
    assert "FAILED fused: its output holds NaN or infinity." in result.err


def crash(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The runner that is opened first crashes in a later step."""
    step, first = OrtRunner.step, []
    steps = itertools.count()

    def crashing(self: OrtRunner) -> float | None:
        first.append(self)
        if self is first[0] and next(steps) >= after:
            raise RuntimeError("the device\nis lost")
        return step(self)

    monkeypatch.setattr(OrtRunner, "step", crashing)


def test_a_runner_that_crashes_amid_the_times(
    pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(monkeypatch, after=2)
    result = pipeline("bench", *ORT, *QUICK, "--json")
    assert result.code == 0, result.err
    data = record(result)
    (contest,) = data["contests"]
    assert measured(contest) == ["unfused, conv-BN folded", "fused"]
    (failure,) = contest["failures"]
    assert failure["label"] == "unfused"
    assert "is lost" in failure["reason"]
    assert contest["baseline"] == "unfused, conv-BN folded"
    assert "unfused gave no time here" in "".join(data["notes"])
    assert "1 failure" in result.err


def test_a_batch_that_no_memory_holds(pipeline: Cli) -> None:
    """211 TB: more than a process can address."""
    result = pipeline("bench", *TORCH, *QUICK, "--batch", "65536", "--size", "16384")
    assert result.code == 1
    assert "nothing could be measured: unfused: a batch of 65536 does not fit in memory" in (
        result.err
    )
    assert not RECORD.exists()


def test_the_other_batches_go_on(pipeline: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    load = TorchRunner.load

    def loading(self: TorchRunner, batch: np.ndarray) -> None:
        if len(batch) == 8:  # as torch says it on the CPU
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        load(self, batch)

    monkeypatch.setattr(TorchRunner, "load", loading)
    result = pipeline("bench", *TORCH, *QUICK, "--batch", "1,8", "--json")
    assert result.code == 0, result.err
    one, eight = record(result)["contests"]
    assert len(one["measured"]) == 3
    assert eight["measured"] == []
    assert {f["label"] for f in eight["failures"]} == set(measured(one))
    assert result.err.count("a batch of 8 does not fit in memory") == 3


def test_an_asked_runtime_that_measures_nothing_is_an_error(
    pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtRunner, "step", lambda self: 1 / 0)
    result = pipeline("bench", *TORCH, *ORT, *QUICK)
    assert result.code == 1
    assert "Error: runtime onnxruntime-cpu: nothing could be measured: unfused: Zero" in result.err
    assert len(json.loads(RECORD.read_text())["contests"]) == 2


def test_ctrl_c_keeps_what_was_measured(pipeline: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repvgg_deploy.cli.progress.bench_progress", interrupting("torch-cpu"))
    result = pipeline("bench", *ORT, *TORCH, *QUICK, "--json")
    assert result.code == 130
    data = record(result)
    assert data["contests"][0]["runtime"] == "onnxruntime-cpu"
    assert len(data["contests"][0]["measured"]) == 3
    assert "interrupted by Ctrl-C: this is what was measured until then" in data["notes"]
    assert data == json.loads(RECORD.read_text())


def test_ctrl_c_before_anything_was_measured_leaves_the_old_record(
    pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    RECORD.write_text("the old one")

    def opening(self: TorchRunner, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TorchRunner, "__init__", opening)
    assert pipeline("bench", *TORCH, *QUICK).code != 0
    assert RECORD.read_text() == "the old one"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--rate", "5"), 2, "--rate has no effect here: --scenario is not server"),
        (("--scenario", "server"), 2, "takes --bound"),
        (("--scenario", "server", "--bound", "5", "--duration", "3"), 2, "--duration has no eff"),
        (("--output", "x.json"), 2, "takes a SUBJECT or --reference"),
        (("ckpt.pth", "--output", "x.json", "--model", "a"), 2, "--model has no effect here"),
        (("--baseline", "fussed"), 1, "nothing here has that label; there are 'unfused', "),
        (("--precision", "int8"), 1, "nothing here is of the precision int8"),
        (("none.onnx",), 1, "none.onnx: no such file"),
        (("ckpt.pth", "ckpt.pth"), 1, "ckpt.pth: is named twice"),
    ],
)
def test_what_cannot_be_meant(
    pipeline: Cli, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = pipeline("bench", *arguments)
    assert result.code == code
    assert words in result.err
    assert "Traceback" not in result.err


def test_without_openvino_and_a_compiler_a_note_says_so(
    pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = pipeline("bench", *QUICK, "--json")
    assert result.code == 0, result.err
    (note,) = [note for note in record(result)["notes"] if "not here" in note]
    assert "torch-compile-cpu (torch.compile needs a C++ compiler" in note
    assert 'openvino (not installed: pip install "repvgg-deploy[openvino]")' in note
    result = pipeline("bench", "--runtime", "openvino")
    assert result.code == 1
    assert "runtime openvino: not usable here" in result.err
