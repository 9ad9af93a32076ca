"""Records from JSON: what was written comes back; what does not fit is refused, with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from repvgg_deploy.rebuild import load_json, read_json, rebuild
from repvgg_deploy.sidecar import to_json, write_json


@dataclass(frozen=True)
class Part:
    name: str
    share: float | None
    pair: tuple[str, int]
    mood: Literal["good", "bad"] = "good"


@dataclass(frozen=True)
class Whole:
    parts: list[Part]
    counts: dict[str, int]
    anything: dict[str, Any] = field(default_factory=dict)
    schema: int = 1


WHOLE = Whole([Part("a", 0.5, ("x", 1)), Part("b", None, ("y", 2), "bad")], {"n": 3}, {"deep": [1]})


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "it.json", WHOLE)
    assert read_json(tmp_path / "it.json", Whole) == WHOLE


def test_what_has_a_default_may_be_left_out_and_an_integer_is_a_number() -> None:
    data = {"parts": [{"name": "a", "share": 2, "pair": ["x", 1]}], "counts": {}}
    found = rebuild(Whole, data)
    assert found == Whole([Part("a", 2.0, ("x", 1))], {})
    assert type(found.parts[0].share) is float


def part(**changes: Any) -> dict[str, Any]:
    good = {"name": "a", "share": 0.5, "pair": ["x", 1]}
    return {"parts": [{**good, **changes}], "counts": {"n": 1}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "it is no dict"),
        ({"parts": []}, "it has no 'counts'"),
        ({**part(), "more": 1}, "it has 'more', which does not belong there"),
        ({**part(), "parts": {}}, "it.parts is no list"),
        ({**part(), "counts": {"n": "1"}}, "it.counts.n is no int"),
        ({**part(), "counts": {"n": True}}, "it.counts.n is no int"),
        ({**part(), "counts": {"n": None}}, "it.counts.n is no int"),
        (part(name=3), r"it.parts\[0\].name is no str"),
        (part(share="0.5"), r"it.parts\[0\].share is no float"),
        (part(share=True), r"it.parts\[0\].share is no float"),
        (part(pair=["x"]), r"it.parts\[0\].pair has not 2 values"),
        (part(pair=["x", "y"]), r"it.parts\[0\].pair\[1\] is no int"),
        (part(mood="open"), "none of good, bad"),
        (part(mood=[]), "none of good, bad"),
    ],
)
def test_what_does_not_fit_is_refused(data: object, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        rebuild(Whole, data)


@pytest.mark.parametrize("text", ["", "{", "[NaN]", "[-Infinity]", "[1e999]", "[" * 100_000, "\0"])
def test_what_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.json").write_text(text)
    with pytest.raises((ValueError, RecursionError)):
        load_json(tmp_path / "it.json")


def test_what_is_no_file_and_what_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        load_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "gone.json")
    (tmp_path / "it.json").write_text(to_json(list(range(100))))
    with pytest.raises(ValueError, match="more than 50 bytes"):
        load_json(tmp_path / "it.json", 50)
    assert load_json(tmp_path / "it.json") == list(range(100))
