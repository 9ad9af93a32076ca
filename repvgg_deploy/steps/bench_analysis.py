"""bench: how near the ceiling the measured networks come, and why one is not faster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import onnx

from ..bench.explain import explain
from ..bench.operators import Operators, operators
from ..bench.record import BenchRecord, Contest, Roofline, on_gpu
from ..bench.roofline.ceilings import Ceilings, find_ceilings
from ..bench.roofline.counts import count
from ..bench.roofline.share import remark, roofline
from ..errors import UserError
from ..optional import available
from ..reparam.graph.files import load_model
from ..runners.onnx_optimized import optimized
from .bench_subjects import Entrant

Entrants = Mapping[str, Entrant]


def cache_folder() -> Path:
    """Where this user's caches are (XDG Base Directory Specification)."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "repvgg-deploy"


def add_rooflines(record: BenchRecord, entrants: Entrants, threads: int) -> BenchRecord:
    """The share of this device's measured ceilings that each subject reaches.

    There is none of ceilings that other work has lowered: it would flatter.
    """
    found: dict[str, Ceilings | None] = {}
    lines, notes = [], []
    for contest in record.contests:
        device = "cuda" if on_gpu(contest.runtime) else "cpu"
        if contest.measured and device not in found:
            found[device], note = _ceilings(device, threads)
            notes += [note] if note else []
        ceilings = found.get(device)
        if ceilings is None or ceilings.disturbed:
            continue
        for one in contest.measured:
            try:
                line = _line(contest, entrants[one.label], ceilings)
            except UserError as error:
                notes.append(f"no share of the ceiling: {error}")
                continue
            lines += [line] if line else []
    told = {f"{line.label}: {said}" for line in lines if (said := remark(line)) is not None}
    return replace(
        record,
        ceilings=[asdict(ceilings) for ceilings in found.values() if ceilings is not None],
        rooflines=lines,
        notes=[*record.notes, *dict.fromkeys(notes), *sorted(told)],
    )


def _ceilings(device: str, threads: int) -> tuple[Ceilings | None, str | None]:
    """With a note; None where they cannot be measured."""
    try:
        return find_ceilings(device, threads, cache_folder())
    except (RuntimeError, MemoryError) as error:  # torch has a RuntimeError for lack of memory
        reason = " ".join(str(error).split())[:200]
        return None, f"ceilings: they cannot be measured here: {reason or 'out of memory'}"


def add_explanations(record: BenchRecord, entrants: Entrants) -> BenchRecord:
    """Why a subject is no faster than its baseline; of ONNX Runtime its own graphs are asked."""
    slow = {(e.runtime, e.label) for e in explain(record, {})}
    asked = {
        (contest.runtime, label)
        for contest in record.contests
        for runtime, slow_label in slow
        if runtime == contest.runtime
        for label in (slow_label, contest.baseline)
    }
    graphs = {key: made for key in asked if (made := _graph(*key, entrants)) is not None}
    return replace(record, explanations=explain(record, graphs))


def _line(contest: Contest, entrant: Entrant, ceilings: Ceilings) -> Roofline | None:
    model = _model(entrant)
    if model is None:
        return None
    size = entrant.subject.image_size
    counts = count(model, contest.batch, size, entrant.label)
    return roofline(contest, entrant.label, counts, ceilings)


def _model(entrant: Entrant) -> onnx.ModelProto | None:
    """None for an engine whose ONNX model is not here."""
    if entrant.graph is None:
        return None
    source = entrant.graph()
    if isinstance(source, Path):
        return load_model(source) if source.exists() else None
    model = onnx.ModelProto()
    model.ParseFromString(source)
    return model


def _graph(runtime: str, label: str, entrants: Entrants) -> Operators | None:
    """What ONNX Runtime runs; other runtimes do not tell."""
    graph = entrants[label].graph if label in entrants else None
    if not runtime.startswith("onnxruntime") or graph is None or not available("onnxruntime"):
        return None
    try:
        return operators(optimized(graph(), runtime.removeprefix("onnxruntime-")))
    except UserError:  # a graph that it cannot load has failed before, and stands there
        return None
