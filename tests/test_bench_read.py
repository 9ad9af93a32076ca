"""bench.json: what is written is read back, by its schema too; what is damaged is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repvgg_deploy.bench import read
from repvgg_deploy.bench.read import read_bench
from repvgg_deploy.bench.record import (
    BenchRecord,
    Contest,
    Explanation,
    Failure,
    Measured,
    Memory,
    Roofline,
    Served,
    Subject,
)
from repvgg_deploy.bench.stats import Ratio, Summary, drift, summarize
from repvgg_deploy.errors import UserError
from repvgg_deploy.sidecar import to_json, write_json

from .bench_records import contest, record, samples
from .helpers import GOLDEN

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "bench-2.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


NUMBERS = st.floats(0, 1e12)
COUNTS = st.integers(0, 2**60)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
PLAIN = {str: TEXT, int: COUNTS, float: NUMBERS, bool: st.booleans()}


def plain(kind: type) -> st.SearchStrategy[Any]:
    """A record of numbers and text; whatever its fields are, the round trip has to hold."""

    def of(hint: Any) -> st.SearchStrategy[Any]:
        if get_origin(hint) is UnionType:
            return st.none() | of(get_args(hint)[0])
        if get_origin(hint) is tuple:
            return st.tuples(*map(of, get_args(hint)))
        return PLAIN[hint]

    hints = get_type_hints(kind)
    return st.builds(kind, **{name: of(hint) for name, hint in hints.items()})


@st.composite
def measurements(draw: st.DrawFn, label: str) -> Measured:
    seconds = draw(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=5))
    return Measured(
        label,
        seconds,
        summarize(seconds),
        drift(seconds),
        ratio=draw(st.none() | plain(Ratio)),
        transfer=draw(st.none() | plain(Summary)),
        memory=draw(st.none() | plain(Memory)),
    )


@st.composite
def contests(draw: st.DrawFn, labels: list[str]) -> Contest:
    measured = draw(st.sets(st.sampled_from(labels)))
    return Contest(
        runtime=draw(TEXT),
        batch=draw(COUNTS),
        baseline=labels[0],
        seed=draw(st.none() | COUNTS),
        warm_up_rounds=draw(st.none() | COUNTS),
        measured=[draw(measurements(label)) for label in measured],
        failures=draw(st.lists(plain(Failure), max_size=2)),
        doubts=draw(st.lists(TEXT, max_size=2)),
    )


@st.composite
def records(draw: st.DrawFn) -> BenchRecord:
    labels = draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))
    subjects = [dataclasses.replace(draw(plain(Subject)), label=label) for label in labels]
    return BenchRecord(
        command=draw(TEXT),
        scenario=draw(TEXT),
        model=draw(st.none() | TEXT),
        architecture=draw(st.none() | TEXT),
        proof=draw(st.none() | TEXT),
        settings=draw(OBJECTS),
        environment=draw(OBJECTS),
        subjects=subjects,
        contests=draw(st.lists(contests(labels), max_size=2)),
        served=draw(st.lists(plain(Served), max_size=1)),
        ceilings=draw(st.lists(OBJECTS, max_size=1)),
        rooflines=draw(st.lists(plain(Roofline), max_size=1)),
        explanations=draw(st.lists(plain(Explanation), max_size=1)),
        notes=draw(st.lists(TEXT, max_size=2)),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(whole=records())
def test_round_trip(whole: BenchRecord, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "bench.json"
    write_json(path, whole)
    VALIDATOR.validate(json.loads(path.read_text()))
    assert read_bench(path) == whole


def written(folder: Path, data: Any) -> Path:
    path = folder / "bench.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def good() -> Any:
    whole = record(contest({"unfused": samples(2.0, rounds=8), "fused": samples(1.0, rounds=8)}))
    return json.loads(to_json(whole))


def change(path: str, value: Any) -> Callable[[Any], None]:
    """Sets what lies at ``a.0.b``."""
    *way, last = path.split(".")

    def apply(data: Any) -> None:
        for name in way:
            data = data[int(name) if name.isdigit() else name]
        data[int(last) if last.isdigit() else last] = value

    return apply


MEASURED = "contests.0.measured.0"
DAMAGED = {
    "text for a number": change(f"{MEASURED}.seconds.3", "1.0"),
    "true for a number": change(f"{MEASURED}.summary.samples", True),
    "null for a number": change(f"{MEASURED}.summary.median", None),
    "negative time": change(f"{MEASURED}.seconds.3", -1.0),
    "negative ratio": change("contests.0.measured.1.ratio.low", -0.5),
    "enormous number": change("contests.0.batch", 10**30),
    "number for text": change("contests.0.runtime", 3),
    "list for a record": change(f"{MEASURED}.summary", []),
    "record for a list": change("contests", {}),
    "one side of an image": change("subjects.0.image_size", [224]),
    "text for a side": change("subjects.0.image_size", [224, "224"]),
    "foreign field": change("contests.0.colour", "red"),
    "deep": change("settings", json.loads("[" * 40 + "]" * 40)),
    "text for settings": change("settings", "none"),
}
#: What a JSON Schema cannot say.
INCONSISTENT = {
    "no samples": change(f"{MEASURED}.seconds", []),
    "no time": change(f"{MEASURED}.seconds.3", 0.0),
    "summary of others": change(f"{MEASURED}.summary.samples", 7),
    "not a subject": change(f"{MEASURED}.label", "another"),
    "a subject twice": change("subjects.0.label", "fused"),
    "measured twice": change("contests.0.measured.1.label", "unfused"),
}


@pytest.mark.parametrize("name", [*DAMAGED, *INCONSISTENT])
def test_damage_is_refused(tmp_path: Path, name: str) -> None:
    data = good()
    assert read_bench(written(tmp_path, data)).contests[0].batch == 1
    {**DAMAGED, **INCONSISTENT}[name](data)
    with pytest.raises(UserError, match="is no benchmark that can be read") as error:
        read_bench(written(tmp_path, data))
    assert str(error.value).startswith(str(tmp_path / "bench.json"))
    assert "\n" not in str(error.value)
    if name in DAMAGED and name not in ("enormous number", "deep"):
        assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("field", ["command", "environment", "subjects", "contests"])
def test_a_missing_field_is_refused(tmp_path: Path, field: str) -> None:
    data = good()
    del data[field]
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(UserError, match=f"is no benchmark that can be read.*{field}"):
        read_bench(written(tmp_path, data))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none(tmp_path: Path, number: str) -> None:
    text = json.dumps(good()).replace('"duration": 20.0', f'"duration": {number}')
    assert number in text
    with pytest.raises(UserError, match="is no benchmark that can be read"):
        read_bench(written(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"schema": ' * 100_000, "\0", "\ud83d"]
)
def test_what_is_no_record_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"bench\.json: "):
        read_bench(path)


@pytest.mark.parametrize("schema", [0, 3, -1, True, "2", None, 2.0, [1], "x" * 10_000])
def test_another_schema(tmp_path: Path, schema: Any) -> None:
    with pytest.raises(UserError, match="and this version reads 1 to 2") as error:
        read_bench(written(tmp_path, {**good(), "schema": schema}))
    assert len(str(error.value)) < 300


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_bench(tmp_path / "bench.json")
    with pytest.raises(UserError, match="no such file"):
        read_bench(tmp_path)  # nor a folder


def test_an_endless_file_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "_LARGEST", 100)
    with pytest.raises(UserError, match="more than 100 bytes"):
        read_bench(written(tmp_path, good()))


def test_schema_1_is_still_read() -> None:
    """A file that version 1 wrote."""
    old = json.loads((GOLDEN / "bench-1.json").read_text())
    whole = read_bench(GOLDEN / "bench-1.json")
    assert (whole.scenario, whole.schema, whole.model) == ("latency", 2, "ckpt")
    assert whole.environment == old["environment"]
    assert [(one.kind, one.precision, one.image_size) for one in whole.subjects] == [
        ("unfused", "fp32", (32, 32)),
        ("folded", "fp32", (32, 32)),
        ("fused", "fp32", (32, 32)),
    ]
    assert [one.sha256 for one in whole.subjects] == [
        *[old["source_sha256"]] * 2,
        old["fused_sha256"],
    ]
    for was, now in zip(old["contests"], whole.contests, strict=True):
        assert (was["runtime"], was["batch"]) == (now.runtime, now.batch)
        assert now.baseline == "unfused"
        assert now.seed is now.warm_up_rounds is None
        for one in now.measured:
            assert one.seconds == was["seconds"][one.label]
            assert one.summary.median == was["summaries"][one.label]["median"]
        fused = now.of("fused")
        assert fused is not None and fused.ratio is not None
        assert fused.ratio.value == was["speedups"]["unfused"]["value"]


def test_schema_1_reads_back_as_schema_2(tmp_path: Path) -> None:
    whole = read_bench(GOLDEN / "bench-1.json")
    write_json(tmp_path / "bench.json", whole)
    VALIDATOR.validate(json.loads((tmp_path / "bench.json").read_text()))
    assert read_bench(tmp_path / "bench.json") == whole


def test_engines_of_schema_1_are_left_out(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "bench-1.json").read_text())
    engine = {**copy.deepcopy(data["contests"][0]), "runtime": "tensorrt fp16"}
    data["contests"].append(engine)
    whole = read_bench(written(tmp_path, data))
    assert {one.runtime for one in whole.contests} == {"torch-cpu"}
    assert "tensorrt fp16, batch 1: left out" in whole.notes[-1]


@pytest.mark.parametrize(
    "damage",
    [
        change("contests.0.seconds.fused", []),
        change("contests.0.seconds.fused.0", 0.0),
        change("contests.0.seconds.fused.0", -1.0),
        change("contests.0.seconds.fused.0", "1"),
        change("contests.0.seconds", {}),
        change("contests.0.seconds", {"resnet": [1.0]}),
        change("image_size", [32]),
        change("image_size", "32"),
        change("contests", None),
        change("proof", 3),
    ],
)
def test_damage_in_schema_1_is_refused(tmp_path: Path, damage: Callable[[Any], None]) -> None:
    data = json.loads((GOLDEN / "bench-1.json").read_text())
    damage(data)
    with pytest.raises(UserError, match="is no benchmark that can be read"):
        read_bench(written(tmp_path, data))
