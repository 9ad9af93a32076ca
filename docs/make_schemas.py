"""Write the JSON Schemas of bench.json, report.json and train.json from their dataclasses.

    python docs/make_schemas.py

Tests hold the files against what this makes.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from repvgg_deploy.bench.record import SCHEMA as BENCH
from repvgg_deploy.bench.record import BenchRecord
from repvgg_deploy.steps.lineage.record import SCHEMA as REPORT
from repvgg_deploy.steps.lineage.record import Report
from repvgg_deploy.train.record import SCHEMA as TRAIN
from repvgg_deploy.train.record import TrainRecord

FOLDER = Path(__file__).with_name("schemas")
PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}


class Definitions:
    """Descriptions of dataclasses by their names. ``least`` is the least of all numbers, None: any
    will do."""

    def __init__(self, least: int | None) -> None:
        self.records: dict[str, Any] = {}
        self._bound = {} if least is None else {"minimum": least}

    def add(self, record: type) -> None:
        """Describe a dataclass, and those in its fields."""
        self.records[record.__name__] = {}  # its place, so that it is not described twice
        kinds, fields = get_type_hints(record), dataclasses.fields(record)
        unset = dataclasses.MISSING
        self.records[record.__name__] = {
            "description": inspect.cleandoc(record.__doc__ or ""),
            "type": "object",
            "properties": {field.name: self.describe(kinds[field.name]) for field in fields},
            "required": [
                f.name for f in fields if f.default is unset and f.default_factory is unset
            ],
            "additionalProperties": False,
        }

    def describe(self, kind: Any) -> dict[str, Any]:
        """The schema of a type as the records use them."""
        origin, inner = get_origin(kind), get_args(kind)
        if kind is Any:
            return {}
        if origin in (Union, UnionType):
            return {"anyOf": [self.describe(inner[0]), {"type": "null"}]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.describe(inner[1])}
        if origin is list:
            return {"type": "array", "items": self.describe(inner[0])}
        if origin is tuple:
            items = [self.describe(part) for part in inner]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if kind.__name__ not in self.records:
                self.add(kind)
            return {"$ref": f"#/$defs/{kind.__name__}"}
        return {"type": PLAIN[kind], **(self._bound if kind in (int, float) else {})}


def schema_text(record: type, name: str, version: int, least: int | None) -> str:
    """The whole file of ``name``.json, which holds a ``record``."""
    definitions = Definitions(least)
    definitions.add(record)
    whole = definitions.records.pop(record.__name__)
    whole["properties"]["schema"] = {"const": version}
    whole["required"].append("schema")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{name}.json of repvgg-deploy, schema {version}",
    }
    parts = dict(sorted(definitions.records.items()))
    return json.dumps({**head, **whole, "$defs": parts}, indent=2) + "\n"


def schemas() -> dict[Path, str]:
    """What is to lie in each file. No number of a benchmark or a training run is negative."""
    return {
        FOLDER / f"bench-{BENCH}.json": schema_text(BenchRecord, "bench", BENCH, 0),
        FOLDER / f"report-{REPORT}.json": schema_text(Report, "report", REPORT, None),
        FOLDER / f"train-{TRAIN}.json": schema_text(TrainRecord, "train", TRAIN, 0),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in schemas().items():
        path.write_text(text)
        print(f"wrote {path}")
