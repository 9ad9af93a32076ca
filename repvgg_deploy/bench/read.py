"""Reading ``bench.json`` strictly: it may come from anywhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import UserError
from ..files import read_error
from ..rebuild import load_json, rebuild
from ..records import check
from .read_schema_1 import from_schema_1
from .record import SCHEMA, BenchRecord

#: In bytes: a million and a half samples.
_LARGEST = 1 << 26
#: What JSON readers of other languages take as an integer.
_LARGEST_NUMBER = 2**63 - 1


def read_bench(path: Path) -> BenchRecord:
    """A benchmark's record, of this schema or of schema 1.

    Raises:
        UserError: no such file, not a record of ``bench``, damaged, or of a newer schema.
    """
    try:
        data = _load(path)
        schema = data.get("schema")
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            raise UserError(
                f"{path}: has schema {str(schema)[:20]}, and this version reads 1 to {SCHEMA}; "
                "is it a bench.json, and is the tool up to date?"
            )
        record = from_schema_1(data) if schema == 1 else rebuild(BenchRecord, data)
        check(record, BenchRecord)
        _check_numbers(record)
        _check_samples(record)
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: is no benchmark that can be read ({_why(error)}); run bench again."
        ) from error
    return record


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a bench.json that bench has written.")
    data = load_json(path, _LARGEST)
    if not isinstance(data, dict):
        raise TypeError("it is no JSON object")
    return data


def _check_numbers(record: BenchRecord) -> None:
    """No number is negative, or larger than any that could be meant."""
    for number in _numbers(record):
        if not 0 <= number <= _LARGEST_NUMBER:
            raise ValueError(f"{number:.3g} is out of range")


def _numbers(value: Any) -> Iterator[float]:
    """Those of the typed part; what a dict holds is free."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif dataclasses.is_dataclass(value):
        for part in vars(value).values():
            yield from _numbers(part)


def _check_samples(record: BenchRecord) -> None:
    """Labels stand for one thing, and a summary is of the samples beside it."""
    subjects = [subject.label for subject in record.subjects]
    _check_unique("subjects", subjects)
    for contest in record.contests:
        labels = [one.label for one in contest.measured]
        _check_unique(f"{contest.runtime}, batch {contest.batch}", labels)
        for one in contest.measured:
            if one.label not in subjects:
                raise ValueError(f"{one.label!r} was measured and is no subject")
            if not one.seconds or min(one.seconds) <= 0:
                raise ValueError(f"{one.label!r} has no samples, or one that took no time")
            if one.summary.samples != len(one.seconds):
                raise ValueError(f"the summary of {one.label!r} is not of its samples")
            if not math.isclose(one.summary.median, median(one.seconds)):
                raise ValueError(f"the median of {one.label!r} is not that of its samples")


def _check_unique(where: str, labels: list[str]) -> None:
    if len(set(labels)) != len(labels):
        raise ValueError(f"{where}: a label stands there twice")


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)[:200]
