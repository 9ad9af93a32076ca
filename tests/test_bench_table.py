"""The printed table of bench."""

from __future__ import annotations

from typing import Any

import pytest

from repvgg_deploy.bench.record import BenchRecord, Contest, Measured, Subject
from repvgg_deploy.bench.stats import drift, speedup, summarize
from repvgg_deploy.report.bench import bench_text

MACHINE: dict[str, Any] = {
    "gpu": None, "packages": {}, "threads": 1, "cores": 2, "cpu": "a CPU", "date": "today",
}  # fmt: skip


def text_of(old: list[float], new: list[float]) -> str:
    samples = {"unfused": old, "unfused, conv-BN folded": old, "fused": new}
    measured = [
        Measured(label, times, summarize(times), drift(times), speedup(old, times))
        for label, times in samples.items()
    ]
    subjects = [Subject(label, "fused", "fp32", (56, 56), bytes=2_800_000_000) for label in samples]
    contest = Contest("torch-cpu", 1, "unfused", 0, 2, measured)
    return bench_text(
        BenchRecord("", "latency", None, None, None, {}, MACHINE, subjects, [contest])
    )


@pytest.mark.parametrize("seconds", [0.9996, 0.99951, 12.3456, 1e-3, 2.5e-8])
def test_no_number_has_an_exponent(seconds: float) -> None:
    text = text_of([seconds * (1 + i / 1e4) for i in range(400)], [seconds] * 400)
    assert "e+" not in text
    assert "e-" not in text


def test_a_table_with_every_column_fits_a_hundred_places() -> None:
    text = text_of([0.0456 + i / 1e5 for i in range(400)], [0.0224] * 400)
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith(("ms a batch:", "unfused", "fused"))]
    assert "p99" in rows[0]
    assert len(rows) == 4
    assert max(map(len, rows)) <= 100, max(rows, key=len)


def test_outliers_and_sizes_are_told() -> None:
    text = text_of([1.0] * 38 + [9.0, 9.0], [1.0] * 40)
    assert "outliers, kept: unfused 2; unfused, conv-BN folded 2\n" in text
    assert "fused 2,800 MB" in text


def test_nothing_to_see_below_is_not_announced() -> None:
    assert "see below" not in text_of([1.0] * 10, [1.0] * 10)
