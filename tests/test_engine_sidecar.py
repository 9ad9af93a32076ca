"""Sidecars of engines that are stale, damaged or hostile."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repvgg_deploy import sidecar
from repvgg_deploy.artifacts import EngineArtifact
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.report.inspect_engine import engine_text
from repvgg_deploy.sidecar import SCHEMA, read_sidecar, sidecar_path
from repvgg_deploy.steps.inspect_engine import inspect_engine

from .conftest import Cli
from .engines import ADA, plan, record, store_engine


def change(**changes: object) -> None:
    sidecar = Path("m.engine.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


LAYER = record()["layers"][0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sha256": "f" * 64}, "m.engine: is not the file that m.engine.json describes"),
        ({"schema": SCHEMA - 1}, "is of another version of this tool"),
        ({"schema": None}, "is of another version of this tool"),
        ({"file": "../../etc/passwd"}, "'../../etc/passwd' is no file name"),
        ({"file": ".."}, "'..' is no file name"),
        ({"file": "/etc/passwd"}, "'/etc/passwd' is no file name"),
        ({"layers": "conv"}, "layers is no list"),
        ({"layers": [5]}, "layers.0 is no dict"),
        ({"layers": [{**LAYER, "input": 16}]}, "layers.0.input is no str"),
        ({"layers": [{"name": "conv"}]}, "layers.0.kind is no str"),
        ({"layers": None}, "layers is no list"),
        ({"inspected": {}}, "inspected is no list"),
        ({"inputs": [{"name": "x", "dtype": "fp16", "shape": ["-1"]}]}, "shape.0 is no int"),
        ({"inputs": [{"name": "x", "dtype": "fp16", "shape": [True]}]}, "shape.0 is no int"),
        ({"outputs": [{}]}, "outputs.0.name is no str"),
        ({"profiles": [{"x": {"min": [1]}}]}, "profiles.0.x.opt is no list"),
        ({"gpu": "A100"}, "gpu is no dict"),
        ({"gpu": {"name": 5}}, "gpu.name is no str"),
        ({"lineage": [["a", "b"]]}, "lineage.0 is no dict"),
        ({"lineage": [{"path": "a"}]}, "lineage.0.sha256 is no str"),
        ({"targets": ["89"]}, "'89' is no compute capability"),
        ({"targets": "sm89"}, "targets is no list"),
        ({"flavour": "tensorflow"}, "'tensorflow' is no flavour of TensorRT"),
        ({"version": "new"}, "'new' is no version of TensorRT"),
        ({"version": 10.13}, "version is no str"),
        ({"version": "10.9.0.34"}, "names TensorRT 10.9.0.34, but the engine itself says"),
        ({"flavour": "rtx"}, "names TensorRT-RTX 10.13.3.9, but the engine itself says TensorRT"),
        ({"warnings": [1]}, "warnings.0 is no str"),
        ({"proof": []}, "proof is no dict"),
        ({"options": []}, "options is no dict"),
        ({"more": 1}, "is damaged"),
        ({"source": {"path": "x"}}, "is damaged"),
        ({"source": None}, "is damaged"),
    ],
)
def test_a_sidecar_that_is_not_right(cli: Cli, changes: dict[str, Any], sentence: str) -> None:
    store_engine(Path("m.engine"), plan())
    change(**changes)
    result = cli("inspect", "m.engine")
    assert result.code == 1
    assert result.out == ""
    assert sentence in result.err
    assert result.err.startswith("Error: m.engine")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "{",
        "\x00",
        "[" * 99_999,
        '{"schema": ' + "9" * 5000 + "}",
        json.dumps({"schema": SCHEMA, "source": {}, "x" * 99_999: 1}),
        json.dumps({"schema": SCHEMA, **record(options={"a": json.loads("[" * 90 + "]" * 90)})}),
    ],
)
def test_a_sidecar_that_is_no_record(cli: Cli, text: str) -> None:
    Path("m.engine").write_bytes(plan())
    Path("m.engine.json").write_text(text)
    result = cli("inspect", "m.engine")
    assert result.code == 1
    assert "m.engine.json: is damaged" in result.err
    assert len(result.err) < 500


def test_a_sidecar_of_100_megabytes(cli: Cli) -> None:
    Path("m.engine").write_bytes(plan())
    Path("m.engine.json").write_bytes(b" " * 100_000_000)
    result = cli("inspect", "m.engine")
    assert result.code == 1
    assert "m.engine.json: is damaged (it is too large for a sidecar)" in result.err


def test_names_that_would_steer_the_terminal(cli: Cli, machine: Any) -> None:
    machine(ADA, tensorrt="10.13.3.9")
    evil = "\x1b[2J\rloads\nshould load here\u2028\ud800"
    store_engine(
        Path("m.engine"),
        plan(),
        layers=[{**LAYER, "name": evil}],
        precision=evil,
        inputs=[{"name": evil, "dtype": evil, "shape": [1]}],
        profiles=[{evil: {"min": [1], "opt": [1], "max": [1]}}],
        lineage=[{"path": evil, "sha256": evil}],
        options={evil: evil},
        gpu={"name": evil, "capability": evil},
    )
    result = cli("inspect", "m.engine")
    assert result.code == 0
    assert all(c.isprintable() or c == "\n" for c in result.out)
    assert [line for line in result.out.splitlines() if line.startswith("should load here")] == [
        result.out.splitlines()[-1]
    ]
    found = json.loads(cli("inspect", "m.engine", "--json").out)
    assert found["sidecar"]["precision"] == evil


def test_no_file_that_a_sidecar_names_is_opened(
    cli: Cli, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inspect shows where an engine came from and goes nowhere itself."""
    machine(ADA, tensorrt="10.13.3.9")
    Path("secret").write_text("secret")
    away = {"path": str(Path("secret").resolve()), "sha256": "0" * 64}
    store_engine(Path("m.engine"), plan(), source=away, lineage=[away, {**away, "path": "secret"}])
    opened = []
    original = Path.open

    def watched(self: Path, *arguments: Any, **named: Any) -> Any:
        opened.append(self.name)
        return original(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", watched)
    assert cli("inspect", "m.engine").code == 0
    assert set(opened) <= {"m.engine", "m.engine.json"}
    assert "m.engine" in opened


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys or indices."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    where=st.integers(min_value=0),
    value=ANY_JSON,
    action=st.sampled_from(["set", "remove", "add"]),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_mutation_of_a_sidecar(
    machine: Any, tmp_path: Path, where: int, value: Any, action: str
) -> None:
    """Either a record that the report can show, or one sentence."""
    machine(ADA, tensorrt="10.13.3.9")
    path = tmp_path / "m.engine"
    path.write_bytes(plan())
    fields = record(sha256=sha256_file(path), created="2026", tool="repvgg-deploy")
    fields["inspected"] = [{"name": "c", "kind": "conv", "inputs": ["fp16"], "outputs": ["fp16"]}]
    fields["proof"] = {"passed": True}
    data = copy.deepcopy({"schema": SCHEMA, **fields})
    spots = list(places(data))
    container, key = spots[where % len(spots)]
    if action == "remove":
        del container[key]
    elif action == "add" and isinstance(container, dict):
        container["added"] = value
    else:
        container[key] = value
    sidecar_path(path).write_text(json.dumps(data))
    try:
        read_sidecar(path, EngineArtifact)
        found = inspect_engine(path)
    except UserError as error:
        said = str(error)
    else:
        said = engine_text(found)
        assert json.loads(sidecar.to_json(found))["sidecar"]["file"] == found.sidecar.file
    assert said.startswith(str(path))
