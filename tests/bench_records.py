"""Benchmark records out of made-up samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repvgg_deploy.bench.record import BenchRecord, Contest, Failure, Measured, Subject
from repvgg_deploy.bench.stats import drift, speedup, summarize

ENVIRONMENT = {
    "cpu": "a CPU",
    "cores": 8,
    "threads": 4,
    "governor": "performance",
    "gpu": "a GPU",
    "driver_cuda": "13.0",
    "packages": {"torch": "2.9", "onnxruntime": "1.23"},
}


def samples(median: float, spread: float = 0.01, rounds: int = 60, seed: int = 0) -> list[float]:
    """Lognormal ones."""
    noise = np.random.default_rng(seed).lognormal(0, spread, rounds)
    return [float(median * one / np.median(noise)) for one in noise]


def contest(
    seconds: Mapping[str, Sequence[float]],
    runtime: str = "torch-cpu",
    batch: int = 1,
    *,
    failures: Sequence[Failure] = (),
    doubts: Sequence[str] = (),
    conditions: dict[str, Any] | None = None,
) -> Contest:
    """The first subject is the baseline."""
    baseline = next(iter(seconds))
    measured = [
        Measured(
            label,
            list(times),
            summarize(times),
            drift(times),
            None if label == baseline else speedup(seconds[baseline], times),
        )
        for label, times in seconds.items()
    ]
    return Contest(
        runtime, batch, baseline, 0, 6, measured, list(failures), list(doubts), conditions
    )


def record(*contests: Contest, environment: Mapping[str, Any] = {}, **changes: Any) -> BenchRecord:
    """Every label is a subject of fp32 at 224 px; ``environment`` changes ENVIRONMENT."""
    labels = dict.fromkeys(
        one.label for held in contests for one in [*held.measured, *held.failures]
    )
    whole = BenchRecord(
        command="repvgg-deploy bench",
        scenario="latency",
        model="ckpt",
        architecture="RepVGG-A0",
        proof="passed",
        settings={"duration": 20.0},
        environment={**ENVIRONMENT, **environment},
        subjects=[Subject(label, "fused", "fp32", (224, 224), sha256="ab") for label in labels],
        contests=list(contests),
    )
    return dataclasses.replace(whole, **changes)
