"""What the last benchmark measured, and whether it was of these files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...bench.conditions import Conditions
from ...bench.read import read_bench
from ...bench.record import BenchRecord, Contest, Measured, Subject
from ...errors import UserError
from ...files import sha256_file
from ...rebuild import rebuild
from .files import Found
from .intervals import median_interval
from .record import Absent, Circumstances, ContestFailure, Doubt, Speed, Timing

COMMAND = "repvgg-deploy bench"


def read_speed(path: Path, files: list[Found]) -> Speed | Absent:
    """The model's bench.json; where there is none that can be used, what to do about it."""
    if not path.exists():
        return Absent("speed", "nothing was measured yet", COMMAND)
    try:
        return _speed(read_bench(path), sha256_file(path), files)
    except UserError as error:
        reason = str(error).removesuffix(".")
    except (OSError, ValueError, TypeError) as error:
        reason = f"{path}: cannot be used ({str(error)[:200]})"
    return Absent("speed", reason, COMMAND)


def _speed(record: BenchRecord, sha256: str, files: list[Found]) -> Speed:
    subjects = {subject.label: subject for subject in record.subjects}
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
        doubts=[
            Doubt(contest.runtime, contest.batch, doubt)
            for contest in record.contests
            for doubt in contest.doubts
        ],
        circumstances=[
            Circumstances(
                contest.runtime,
                contest.batch,
                rebuild(Conditions, contest.conditions, "conditions"),
            )
            for contest in record.contests
            if contest.conditions is not None
        ],
        notes=record.notes,
        outdated=_outdated(record.subjects, files),
    )


def _timing(contest: Contest, one: Measured, subjects: Mapping[str, Subject]) -> Timing:
    subject, summary = subjects[one.label], one.summary
    ratio = one.ratio
    known = ratio is not None and ratio.low is not None and ratio.high is not None
    return Timing(
        runtime=contest.runtime,
        batch=contest.batch,
        label=one.label,
        kind=subject.kind,
        precision=subject.precision,
        file=None if subject.path is None else Path(subject.path).name,
        samples=summary.samples,
        median=summary.median,
        quartiles=(summary.q25, summary.q75),
        interval=median_interval(np.asarray(one.seconds)),
        p90=summary.p90,
        p95=summary.p95,
        p99=summary.p99,
        outliers=summary.outliers,
        transfer=None if one.transfer is None else one.transfer.median,
        memory=one.memory,
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
