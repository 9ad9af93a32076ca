"""``bench.json`` as it was before schema 2: three networks, float32 but for engines."""

from __future__ import annotations

from typing import Any, TypedDict

from ..records import check
from .record import BenchRecord, Contest, Measured, Subject
from .stats import drift, speedup, summarize

_KINDS = {"unfused": "unfused", "unfused, conv-BN folded": "folded", "fused": "fused"}


class _Contest(TypedDict):
    runtime: str
    batch: int
    seconds: dict[str, list[float]]


class _Record(TypedDict):
    """What is read of it; summaries and ratios are computed again from the samples."""

    model: str
    architecture: str
    image_size: list[int]
    fused_sha256: str
    source_sha256: str
    proof: str
    environment: dict[str, Any]
    contests: list[_Contest]
    notes: list[str]


def from_schema_1(data: dict[str, Any]) -> BenchRecord:
    """The same as a BenchRecord. What was not known then is None or empty.

    Contests of engines are left out, with a note: their image size was not recorded.

    Raises:
        TypeError, ValueError: it is damaged.
    """
    check(data, _Record)
    height, width = data["image_size"]
    hashes = {"fused": data["fused_sha256"]} | dict.fromkeys(
        ("unfused", "folded"), data["source_sha256"]
    )
    contests = [one for one in data["contests"] if not _of_engine(one)]
    labels = dict.fromkeys(label for one in contests for label in one["seconds"])
    if foreign := labels.keys() - _KINDS.keys():
        raise ValueError(f"{min(foreign)!r} is no network of schema 1")
    return BenchRecord(
        command="",
        scenario="latency",
        model=data["model"],
        architecture=data["architecture"],
        proof=data["proof"],
        settings={},
        environment=data["environment"],
        subjects=[
            Subject(label, _KINDS[label], "fp32", (height, width), sha256=hashes[_KINDS[label]])
            for label in labels
        ],
        contests=[_contest(one) for one in contests],
        notes=[*data["notes"], *map(_left_out, filter(_of_engine, data["contests"]))],
    )


def _contest(old: _Contest) -> Contest:
    seconds = {label: [float(time) for time in times] for label, times in old["seconds"].items()}
    if not seconds or not all(times and min(times) > 0 for times in seconds.values()):
        raise ValueError(f"{old['runtime']}: a network has no samples, or one that took no time")
    baseline = next(iter(seconds))
    return Contest(
        runtime=old["runtime"],
        batch=old["batch"],
        baseline=baseline,
        seed=None,
        warm_up_rounds=None,
        measured=[
            Measured(
                label,
                times,
                summarize(times),
                drift(times),
                None if label == baseline else speedup(seconds[baseline], times),
            )
            for label, times in seconds.items()
        ],
    )


def _of_engine(contest: _Contest) -> bool:
    """Its runtime then had the engine's precision in its name: ``tensorrt fp16``."""
    return contest["runtime"].startswith(("tensorrt", "rtx"))


def _left_out(contest: _Contest) -> str:
    return (
        f"{contest['runtime']}, batch {contest['batch']}: left out, schema 1 did not record the "
        "image size of engines"
    )
