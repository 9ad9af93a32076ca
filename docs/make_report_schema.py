"""Write the JSON Schema of report.json from its dataclasses: python docs/make_report_schema.py

A test holds the file against what this makes.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from repvgg_deploy.steps.lineage.record import SCHEMA, Report

TARGET = Path(__file__).with_name("schemas") / f"report-{SCHEMA}.json"
PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}


def schema_text() -> str:
    """The whole file."""
    records: dict[str, Any] = {}
    add_record(Report, records)
    whole = records.pop(Report.__name__)
    whole["properties"]["schema"] = {"const": SCHEMA}
    whole["required"].append("schema")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"report.json of repvgg-deploy, schema {SCHEMA}",
    }
    return json.dumps({**head, **whole, "$defs": dict(sorted(records.items()))}, indent=2) + "\n"


def add_record(record: type, records: dict[str, Any]) -> None:
    """Describe a dataclass, and those in its fields, under their names."""
    records[record.__name__] = {}  # its place, so that it is not described twice
    kinds, fields = get_type_hints(record), dataclasses.fields(record)
    unset = dataclasses.MISSING
    records[record.__name__] = {
        "description": inspect.cleandoc(record.__doc__ or ""),
        "type": "object",
        "properties": {field.name: describe(kinds[field.name], records) for field in fields},
        "required": [f.name for f in fields if f.default is unset and f.default_factory is unset],
        "additionalProperties": False,
    }


def describe(kind: Any, records: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type as the records use them."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, UnionType):
        return {"anyOf": [describe(inner[0], records), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is dict:
        return {"type": "object", "additionalProperties": describe(inner[1], records)}
    if origin is list:
        return {"type": "array", "items": describe(inner[0], records)}
    if origin is tuple:
        items = [describe(part, records) for part in inner]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in records:
            add_record(kind, records)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {"type": PLAIN[kind]}


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(schema_text())
    print(f"wrote {TARGET}")
