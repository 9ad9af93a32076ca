"""What the last benchmark measured, and whether it was of these files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...bench.read import read_bench
from ...bench.record import BenchRecord, Contest, Measured, Subject
from ...errors import UserError
from ...files import sha256_file
from .files import Found
from .intervals import median_interval
from .record import Absent, ContestFailure, Speed, Timing

COMMAND = "repvgg-deploy bench"


def read_speed(path: Path, files: list[Found]) -> Speed | Absent:
    """The model's bench.json; where there is none that can be used, what to do about it."""
    if not path.exists():
        return Absent("speed", "nothing was measured yet", COMMAND)
    try:
        return _speed(read_bench(path), sha256_file(path), files)
    except UserError as error:
        reason = str(error).removesuffix(".")
    except (OSError, ValueError, OverflowError) as error:
        reason = f"{path}: cannot be used ({str(error)[:200]})"
    return Absent("speed", reason, COMMAND)


def _speed(record: BenchRecord, sha256: str, files: list[Found]) -> Speed:
    subjects = {subject.label: subject for subject in record.subjects}
    doubts = [
        f"{contest.runtime}, batch {contest.batch}: {doubt}"
        for contest in record.contests
        for doubt in contest.doubts
    ]
    baselines = {contest.baseline for contest in record.contests}
    return Speed(
        command=record.command,
        scenario=record.scenario,
        sha256=sha256,
        settings=record.settings,
        environment=record.environment,
        baseline=baselines.pop() if len(baselines) == 1 else None,
        timings=[
            _timing(contest, one, subjects)
            for contest in record.contests
            for one in contest.measured
        ],
        failures=[
            ContestFailure(contest.runtime, contest.batch, failure)
            for contest in record.contests
            for failure in contest.failures
        ],
        served=record.served,
        ceilings=record.ceilings,
        rooflines=record.rooflines,
        explanations=record.explanations,
        doubts=doubts,
        notes=record.notes,
        outdated=_outdated(record.subjects, files),
    )


def _timing(contest: Contest, one: Measured, subjects: Mapping[str, Subject]) -> Timing:
    seconds = np.asarray(one.seconds)
    if not len(seconds) or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise ValueError(f"the times of {one.label!r} are not all above 0")
    subject = subjects.get(one.label)
    if subject is None:
        raise ValueError(f"{one.label!r} is no subject")
    low, high = np.percentile(seconds, (25, 75))
    ratio = one.ratio
    known = ratio is not None and ratio.low is not None and ratio.high is not None
    return Timing(
        runtime=contest.runtime,
        batch=contest.batch,
        label=one.label,
        kind=subject.kind,
        precision=subject.precision,
        file=None if subject.path is None else Path(subject.path).name,
        samples=len(seconds),
        median=one.summary.median,
        quartiles=(float(low), float(high)),
        interval=median_interval(seconds),
        p90=one.summary.p90,
        p99=one.summary.p99,
        images_per_second=contest.throughput(one.label),
        ratio=None if ratio is None else ratio.value,
        ratio_interval=(ratio.low, ratio.high) if known else None,  # type: ignore[union-attr, arg-type]
        steady=one.drift.steady,
    )


def _outdated(subjects: list[Subject], files: list[Found]) -> list[str]:
    """Measured files of the lineage whose bytes are others now."""
    now = {Path(found.entry.path).name: found.entry.sha256 for found in files}
    measured = {Path(s.path).name: s.sha256 for s in subjects if s.path and s.sha256}
    return sorted(name for name, sha256 in measured.items() if now.get(name, sha256) != sha256)
