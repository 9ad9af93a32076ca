"""A model folder with everything a report shows, and benchmarks out of made-up samples."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner

from repvgg_deploy.bench.record import (
    BenchRecord,
    Contest,
    Explanation,
    Failure,
    Measured,
    Memory,
    Roofline,
    Served,
    Subject,
)
from repvgg_deploy.bench.stats import Drift, speedup, summarize
from repvgg_deploy.cli.main import cli
from repvgg_deploy.sidecar import to_json

from .helpers import training_state
from .training_records import training_record

SCRIPT = "<script>alert(1)</script>"


def run(*arguments: object) -> None:
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def make_model(folder: Path) -> None:
    """``engines/ckpt`` in ``folder``: trained, fused, ONNX in three precisions, evaluated."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        torch.save(training_state(), "ckpt.pth")
        Path("train.json").write_text(to_json(training_record(Path("ckpt.pth"))))
        images = np.random.default_rng(0).normal(size=(48, 3, 32, 32)).astype(np.float32)
        np.savez("x.npz", x=images, y=np.arange(48) % 5)
        run("fuse", "ckpt.pth")
        run("export", "--onnx", "--size", 32)
        run("export", "--onnx", "--fp16", "--size", 32)
        run("quantize", "--calib", "x.npz", "--method", "quick", "--samples", 24)
        Path("bench.json").write_text(to_json(bench(Path("engines/ckpt"))))
    finally:
        os.chdir(before)


def _samples(median: float, seed: int) -> list[float]:
    noise = np.random.default_rng(seed).lognormal(0, 0.02, 120)
    return [float(median * one / np.median(noise)) for one in noise]


def _measured(label: str, seconds: list[float], baseline: list[float] | None) -> Measured:
    half = len(seconds) // 2
    drift = Drift(speedup(seconds[:half], seconds[half:]), True)
    ratio = None if baseline is None else speedup(baseline, seconds)
    memory = Memory(host=10**8 + len(label), device=None)
    return Measured(label, seconds, summarize(seconds), drift, ratio, memory=memory)


#: As bench/conditions.py has them, of a machine with a GPU that was throttled.
CONDITIONS = {
    "seconds": 5.0,
    "samples": 10,
    "cpu_clock": {"minimum": 2900.0, "median": 3000.0, "maximum": 3100.0},
    "load_average": {"minimum": 1.0, "median": 1.5, "maximum": 2.0},
    "foreign_load": 0.25,
    "steal": 0.01,
    "quota_waits": None,
    "gpu": {
        "name": "a GPU",
        "sm_clock": {"minimum": 1980.0, "median": 1980.0, "maximum": 1980.0},
        "memory_clock": None,
        "power": {"minimum": 300.0, "median": 350.0, "maximum": 400.0},
        "temperature": None,
        "throttled": ["power"],
    },
    "doubts": ["the GPU was throttled: power"],
}


def bench(folder: Path, **changes: Any) -> BenchRecord:
    """Unfused, fused and int8, at two batch sizes, of the files in ``folder`` as they are."""

    def subject(label: str, kind: str, precision: str, path: Path) -> Subject:
        sha256 = json.loads(path.with_name(f"{path.name}.json").read_text())["sha256"]
        return Subject(label, kind, precision, (32, 32), str(path), sha256)

    fused = json.loads((folder / "fused.safetensors.json").read_text())
    source = fused["source"]
    subjects = [
        Subject("unfused", "unfused", "fp32", (32, 32), source["path"], source["sha256"]),
        subject("fused", "fused", "fp32", folder / "fused.safetensors"),
        subject("int8", "onnx", "int8", folder / "int8.onnx"),
    ]
    contests, rooflines = [], []
    for batch in (1, 8):
        times = {
            "unfused": _samples(0.004 * batch, 1),
            "fused": _samples(0.002 * batch, 2),
            "int8": _samples(0.001 * batch, 3),
        }
        measured = [
            _measured(label, seconds, None if label == "unfused" else times["unfused"])
            for label, seconds in times.items()
        ]
        failures = [Failure("bf16.onnx", "this runtime has no bf16")] * (batch == 8)
        doubts = ["fused drifted"] * (batch == 8)
        contests.append(
            Contest(
                "onnxruntime-cpu", batch, "unfused", 7, 5, measured, failures, doubts, CONDITIONS
            )
        )
        macs = 10**7 * batch
        rooflines += [
            Roofline(
                "onnxruntime-cpu", batch, "fused", macs, 10**6, 5e-4, 0.25, "bytes", 6e-4, macs // 2
            )
        ]
    record = {
        "command": "repvgg-deploy bench --batch 1,8",
        "scenario": "latency",
        "model": folder.name,
        "architecture": None,
        "proof": None,
        "settings": {"duration": 5.0, "batch": [1, 8]},
        "environment": {"cpu": "a CPU", "gpu": None, "packages": {"torch": "2.13"}},
        "subjects": subjects,
        "contests": contests,
        "served": [
            Served("onnxruntime-cpu", "fused", 120.0, 5000, 0.004, 0.009, True, 0.01, 0, 8, 2.5)
        ],
        "ceilings": [{"device": "cpu", "macs": {"fp32": 5e10}, "bytes": 1e10}],
        "rooflines": rooflines,
        "explanations": [Explanation("torch-cpu", 1, "fused", "launch", "bound by launches")],
        "notes": ["torch-cuda: no GPU here"],
        **changes,
    }
    return BenchRecord(**record)
