"""What an engine is, as lines and a table; last, whether it loads here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runners.tensorrt.tensors import shape_text
from .text import count_text, one_line, table

if TYPE_CHECKING:
    from ..artifacts import EngineArtifact
    from ..engine.engine_file import EngineFile
    from ..engine.plan import Plan
    from ..steps.inspect_engine import EngineInspection

#: What a line is about, and what it says.
_Fact = tuple[str, str]

_LAYER_HEADER = ("layer", "kind", "reads", "weighs with", "writes")
_BUILT_HEADER = ("layer of the finished engine", "kind", "reads", "writes")

#: These have lines of their own.
_OPTIONS_SHOWN = ("profiles", "targets")

#: A longer value of foreign metadata is cut here; --json has it whole.
_LONGEST_VALUE = 80


def engine_text(found: EngineInspection) -> str:
    """What it takes and gives, what it was made from, a line a layer, and the verdict."""
    file, sidecar = found.file, found.sidecar
    precision = f", {sidecar.precision}" if sidecar else ""
    facts = [("size", f"{file.size:,} bytes"), ("sha256", found.sha256)]
    facts += _header_facts(file.plan) if sidecar is None else _sidecar_facts(sidecar)
    facts += _metadata_facts(file)
    width = max(len(name) for name, _ in facts)
    lines = [
        f"{file.path}: {file.plan.maker}{precision}",
        *(f"{name.ljust(width)}  {value}" for name, value in facts),
    ]
    tables = _layer_tables(sidecar) if sidecar else []
    ending = [*(f"note: {note}" for note in found.verdict.notes), found.verdict.sentence]
    return "\n".join([*map(one_line, lines), *tables, *map(one_line, ending)])


def _header_facts(plan: Plan) -> list[_Fact]:
    facts = [("sidecar", "none; this is all that the header tells")]
    if plan.targets is not None:
        others = ["others"] if plan.other_targets else []
        facts.append(("built for", ", ".join([*plan.targets, *others])))
    return facts


def _sidecar_facts(sidecar: EngineArtifact) -> list[_Fact]:
    targets, gpu, source = ", ".join(sidecar.targets), sidecar.gpu, sidecar.source
    return [
        ("built for", f"{targets} ({gpu['name']})" if gpu else targets),
        ("built on", f"{sidecar.platform}, {sidecar.created}, {sidecar.tool}"),
        *(("input", _tensor(tensor)) for tensor in sidecar.inputs),
        *(("output", _tensor(tensor)) for tensor in sidecar.outputs),
        *(("profile", _profile(profile)) for profile in sidecar.profiles),
        ("options", _options(sidecar.options)),
        ("made from", f"{source.path}, sha256 {source.sha256}"),
        *(("that from", f"{link['path']}, sha256 {link['sha256']}") for link in sidecar.lineage),
        *(("warning", warning) for warning in sidecar.warnings),
        ("proof", _proof(sidecar.proof)),
    ]


def _tensor(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['name']}  {tensor['dtype']}  {shape_text(tensor['shape'])}"


def _profile(profile: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    return "; ".join(
        f"{name}  {shape_text(shapes['min'])} to {shape_text(shapes['max'])}, tuned for "
        f"{shape_text(shapes['opt'])}"
        for name, shapes in profile.items()
    )


def _options(options: Mapping[str, Any]) -> str:
    """Those that were set."""
    given = {
        name: value
        for name, value in options.items()
        if name not in _OPTIONS_SHOWN and value is not None and value is not False
    }
    settings = [f"{name} {json.dumps(value)}" for name, value in given.items()]
    return ", ".join(settings) or "the builder's defaults"


def _proof(proof: Mapping[str, Any] | None) -> str:
    if proof is None:
        return "none: built, not run"
    return "passed" if proof.get("passed") is True else "FAILED"


def _metadata_facts(file: EngineFile) -> list[_Fact]:
    """One line a value of the header that another tool put before the engine."""
    if file.metadata is None:
        return []
    facts = [("header", f"{file.start:,} bytes of {count_text(len(file.metadata), 'value')}")]
    for name, value in file.metadata.items():
        text = value if isinstance(value, str) else json.dumps(value)
        cut = "..." if len(text) > _LONGEST_VALUE else ""
        facts.append(("metadata", f"{name}: {text[:_LONGEST_VALUE]}{cut}"))
    return facts


def _layer_tables(sidecar: EngineArtifact) -> list[str]:
    """The typed network, and the finished engine where there was a GPU to ask."""
    keys = ("name", "kind", "input", "weight", "output")
    rows = [[one_line(layer[key]) for key in keys] for layer in sidecar.layers]
    tables = [table(_LAYER_HEADER, rows, left=5)]
    if sidecar.inspected is not None:
        built = [
            [
                one_line(layer["name"]),
                one_line(layer["kind"]),
                one_line(", ".join(layer["inputs"])),
                one_line(", ".join(layer["outputs"])),
            ]
            for layer in sidecar.inspected
        ]
        tables.append(table(_BUILT_HEADER, built, left=4))
    return tables
