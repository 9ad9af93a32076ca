"""The published JSON Schemas are those of the records."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

DOCS = Path(__file__).parent.parent / "docs"


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_schemas", DOCS / "make_schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["bench-2.json", "report-2.json", "train-1.json"])
def test_the_published_schema_is_that_of_the_records(name: str) -> None:
    path = DOCS / "schemas" / name
    assert path.read_text() == maker().schemas()[path], "run python docs/make_schemas.py"
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_every_schema_is_published() -> None:
    assert set(maker().schemas()) == set((DOCS / "schemas").iterdir())
