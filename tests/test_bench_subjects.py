"""What bench measures besides the current model."""

from __future__ import annotations

import json
from pathlib import Path

from .bench_runs import ONNX, ORT, QUICK, RECORD, TORCH, measured, record
from .conftest import Cli


def test_files_and_a_reference_without_the_workspace(pipeline: Cli) -> None:
    named = ("ckpt.pth", "engines/ckpt/fused.safetensors", ONNX, "--reference", "resnet18")
    result = pipeline(
        "bench", *named, "--size", "32", "--output", "out.json", *TORCH, *ORT, *QUICK, "--json"
    )
    assert result.code == 0, result.err
    data = record(result)
    assert data == json.loads(Path("out.json").read_text())
    assert not RECORD.exists()
    assert data["model"] is None
    kinds = {subject["label"]: subject["kind"] for subject in data["subjects"]}
    assert kinds == {
        "ckpt.pth": "unfused",
        "engines/ckpt/fused.safetensors": "fused",
        str(ONNX): "onnx",
        "resnet18": "reference",
    }
    torch_cpu, ort = data["contests"]
    assert measured(torch_cpu) == [label for label in kinds if label != str(ONNX)]
    assert set(measured(ort)) == set(kinds)
    assert not [d for c in data["contests"] for d in c["doubts"] if "results differ" in d]


def test_a_named_file_beside_the_current_model(pipeline: Cli) -> None:
    Path("own.onnx").write_bytes(ONNX.read_bytes())
    result = pipeline("bench", "own.onnx", *ORT, *QUICK, "--baseline", "own.onnx", "--json")
    assert result.code == 0, result.err
    (contest,) = record(result)["contests"]
    assert measured(contest) == ["unfused", "unfused, conv-BN folded", "fused", "own.onnx"]
    assert contest["baseline"] == "own.onnx"
    assert RECORD.exists()


def test_half_precision_is_held_against_its_own_rounding(pipeline: Cli) -> None:
    assert pipeline("export", "--onnx", "--fp16", "--size", "32").code == 0
    result = pipeline("bench", *TORCH, *ORT, *QUICK, "--precision", "fp16", "--json")
    assert result.code == 0, result.err
    labels = ["unfused, fp16", "unfused, conv-BN folded, fp16", "fused, fp16"]
    for contest in record(result)["contests"]:
        assert measured(contest) == labels
        assert contest["baseline"] == "unfused, fp16"
    data = record(pipeline("bench", *ORT, *QUICK, "--json"))  # by itself, the file alone
    assert measured(data["contests"][0])[-1] == "fused, fp16"


def test_a_model_of_a_fixed_batch(pipeline: Cli) -> None:
    assert pipeline("export", "--onnx", "--size", "32", "--batch", "2").code == 0
    result = pipeline("bench", ONNX, *ORT, *QUICK, "--batch", "1,2", "--json")
    assert result.code == 0, result.err
    one, two = record(result)["contests"]
    assert one["failures"] == [
        {"label": str(ONNX), "reason": f"{ONNX}: takes batches of 2 images alone."}
    ]
    assert str(ONNX) in measured(two)
    assert "fused" in measured(one)  # from a graph of any batch, and a note says so
    assert "fp32.onnx: not measured, it takes batches of 2 images alone" in result.err


def test_requests_at_random(pipeline: Cli) -> None:
    server = ("--scenario", "server", "--bound", "1000", "--requests", "400", "--threads", "1")
    result = pipeline("bench", *server, "--rate", "4000", *TORCH, "--batch", "1,4", "--json")
    assert result.code == 0, result.err
    data = record(result)
    assert data["scenario"] == "server"
    assert {one["label"] for one in data["served"]} == {s["label"] for s in data["subjects"]}
    assert len(data["served"]) == 3
    for one in data["served"]:
        assert (one["rate"], one["requests"], one["batch"]) == (4000, 400, 4)
    assert "requests/s" in result.err


def test_several_batches_in_flight(pipeline: Cli) -> None:
    result = pipeline("bench", "--scenario", "throughput", *TORCH, *ORT, *QUICK, "--json")
    assert result.code == 0, result.err
    data = record(result)
    assert "one batch after the other, not several in flight: torch-cpu" in data["notes"]
    assert all(len(contest["measured"]) == 3 for contest in data["contests"])
