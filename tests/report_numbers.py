"""What the tables of a page ought to show, row by row, worked out from report.json alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: A format of report/html/values.py, and the exact value.
Number = tuple[str, float]


def expected_tables(report: dict[str, Any]) -> dict[str, list[list[Number]]]:
    """By the table's id. A value that is None is a dash, and no number."""
    speed = report["speed"]
    rows = {
        "epoch-table": [list(_epoch(one)) for one in report["training"]["record"]["epochs"]],
        "timing-table": [list(_timing(one)) for one in speed["timings"]],
        "detail-table": [list(_detail(one)) for one in speed["timings"]],
        "condition-table": [list(_conditions(one)) for one in speed["circumstances"]],
        "served-table": [list(_served(one)) for one in speed["served"]],
        "roofline-table": [list(_roofline(one)) for one in speed["rooflines"]],
        "work-table": [list(_work(one)) for one in speed["rooflines"]],
    }
    return {
        name: [[(form, value) for form, value in row if value is not None] for row in table]
        for name, table in rows.items()
    }


def _epoch(one: dict[str, Any]) -> Iterator[Any]:
    yield from (("integer", one["step"]), ("plain", one["lr"]), ("loss", one["loss"]))
    for run in ("val", "ema"):
        yield "loss", one[f"{run}_loss"]
        yield from (("signed", one[f"{run}_{name}"]) for name in ("top1", "top5"))
    yield from (("plain", one[name]) for name in ("images_per_second", "seconds"))


def _timing(one: dict[str, Any]) -> Iterator[Any]:
    yield "integer", one["batch"]
    yield from (("milliseconds", value) for value in (one["median"], *one["quartiles"]))
    yield "plain", one["images_per_second"]
    yield from (("times", value) for value in (one["ratio"], *(one["ratio_interval"] or ())))


def _detail(one: dict[str, Any]) -> Iterator[Any]:
    yield from (("integer", one[name]) for name in ("batch", "samples", "outliers"))
    yield from (("milliseconds", one[name]) for name in ("p90", "p95", "p99", "transfer"))
    yield from (("size", (one["memory"] or {}).get(name)) for name in ("host", "device"))


def _conditions(one: dict[str, Any]) -> Iterator[Any]:
    found = one["conditions"]
    yield from (("integer", one["batch"]), ("plain", found["seconds"]))
    yield from _spread("integer", found["cpu_clock"])
    yield from _spread("plain", found["load_average"])
    yield from (("plain", found["foreign_load"]), ("percent", found["steal"]))
    yield "plain", found["quota_waits"]
    for name in ("sm_clock", "power", "temperature"):
        yield from _spread("integer", (found["gpu"] or {}).get(name))


def _spread(form: str, one: dict[str, Any] | None) -> Iterator[Any]:
    if one is not None:
        yield form, one["median"]
        if one["minimum"] != one["maximum"]:
            yield from ((form, one["minimum"]), (form, one["maximum"]))


def _served(one: dict[str, Any]) -> Iterator[Any]:
    yield from (("plain", one["rate"]), ("integer", one["requests"]))
    yield from (("milliseconds", one[name]) for name in ("p50", "p99", "bound"))
    yield from (("integer", one["batch"]), ("plain", one["mean_batch"]))


def _roofline(one: dict[str, Any]) -> Iterator[Any]:
    yield "integer", one["batch"]
    yield from (("milliseconds", one[name]) for name in ("ceiling_seconds", "layered_seconds"))
    yield "percent", one["share"]


def _work(one: dict[str, Any]) -> Iterator[Any]:
    yield from (("integer", one[name]) for name in ("batch", "macs", "winograd"))
    yield "size", one["bytes"]
