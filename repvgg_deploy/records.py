"""Data from files, held against the types that it should have: a file may hold anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

#: No record of ours is nested half as deep, and what walks one may not run out of stack.
_DEEPEST = 32


class _Source(TypedDict):
    path: str
    sha256: str


class _Gpu(TypedDict):
    name: str


class _Layer(TypedDict):
    name: str
    kind: str
    input: str
    weight: str
    output: str


class _Inspected(TypedDict):
    name: str
    kind: str
    inputs: list[str]
    outputs: list[str]


class _Tensor(TypedDict):
    name: str
    dtype: str
    shape: list[int]


class _Shapes(TypedDict):
    min: list[int]
    opt: list[int]
    max: list[int]


class _Engine(TypedDict):
    """What the records inside an EngineArtifact hold at least."""

    file: str
    flavour: str
    version: str
    targets: list[str]
    gpu: _Gpu | None
    lineage: list[_Source]
    layers: list[_Layer]
    inspected: list[_Inspected] | None
    inputs: list[_Tensor]
    outputs: list[_Tensor]
    profiles: list[dict[str, _Shapes]]


class _QuantizedLayer(TypedDict):
    name: str
    quantized: bool
    input_scale: float | None
    reason: str


class _Calibration(TypedDict):
    path: str
    sha256: str
    samples: int
    preprocessing: dict[str, Any]


class _Method(TypedDict):
    effort: str
    seed: int


class _Integers(TypedDict):
    """How many integers were compared, how many differ, and by how many steps at most."""

    values: int
    differing: int
    largest: int


class _QuantizedProof(TypedDict):
    """``sqnr_db`` (None: exact) and ``agreement`` (None: not a classifier) are those against the
    float network on ``samples``; each has to reach the bound of its name, None: none was asked
    for. ``top1_drop`` is in percent on labelled samples (None: there were no labels), and
    ``max_drop`` its bound.
    """

    passed: bool
    samples: int
    sqnr_db: float | None
    min_sqnr_db: float | None
    agreement: float | None
    min_agreement: float | None
    top1_drop: float | None
    max_drop: float | None
    integers: _Integers | None


class _Quantized(TypedDict):
    """What the records inside a QuantizedArtifact hold at least."""

    file: str
    float_type: str
    layers: list[_QuantizedLayer]
    calibration: _Calibration
    method: _Method
    data: dict[str, str]
    proof: _QuantizedProof


_FILE = (r"(?!\.{1,2}$)[^/\\\x00]+", "file name")


def check_quantized(record: Mapping[str, Any]) -> None:
    """Hold the fields of a QuantizedArtifact against what code that reads them relies on.

    Raises:
        TypeError, ValueError: says where.
    """
    check(record, _Quantized)
    for value, (pattern, what) in (
        (record["file"], _FILE),
        *((name, _FILE) for name in record["data"]),
        (record["float_type"], ("fp32|fp16", "float type")),
        (record["precision"], ("int8", "precision of a quantized model")),
    ):
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is no {what}")
    if "sqnr_db" not in record["proof"]:
        raise ValueError("the proof has no sqnr_db")
    if len(record["input_shape"]) != 4:
        raise ValueError("input_shape has not four dimensions")
    for layer in record["layers"]:
        scale = layer["input_scale"]
        if layer["quantized"] is not (scale is not None and scale > 0):
            raise ValueError(
                f"layer {layer['name']!r} is quantized without a scale, or the reverse"
            )


def check_engine(record: Mapping[str, Any]) -> None:
    """Hold the fields of an EngineArtifact against what code that reads them relies on.

    ``file`` is the name of a file and never leads elsewhere.

    Raises:
        TypeError, ValueError: says where.
    """
    check(record, _Engine)
    for value, pattern, what in (
        (record["file"], *_FILE),
        (record["flavour"], r"tensorrt|rtx", "flavour of TensorRT"),
        (record["version"], r"\d{1,9}(\.\d{1,9})+.*", "version of TensorRT"),
        *((target, r"sm\d{2,4}", "compute capability") for target in record["targets"]),
    ):
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is no {what}")


def check(value: object, kind: Any, where: str = "", depth: int = 0) -> None:
    """Hold a value, as JSON has it, against a type; None is taken for every ``X | None``.

    Raises:
        TypeError: it is of another type; says where.
        ValueError: it is nested too deeply.
    """
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if get_origin(kind) in (Union, UnionType):
        if value is None:
            return
        kind = get_args(kind)[0]
    expected = get_origin(kind) or (Mapping if is_typeddict(kind) else kind)
    fits = kind is Any or isinstance(value, expected)
    if not fits or (expected is int and isinstance(value, bool)):
        raise TypeError(f"{where} is no {'dict' if expected is Mapping else expected.__name__}")
    for name, part, its_kind in _parts(value, kind):
        check(part, its_kind, f"{where}.{name}" if where else str(name), depth + 1)


def _parts(value: Any, kind: Any) -> Iterator[tuple[str | int, object, Any]]:
    """What a value is made of: the name of each part, the part, and the type it should have."""
    if dataclasses.is_dataclass(value):
        kinds = get_type_hints(type(value))
        yield from (
            (f.name, getattr(value, f.name), kinds[f.name]) for f in dataclasses.fields(value)
        )
    elif is_typeddict(kind):
        kinds = get_type_hints(kind)
        yield from ((name, value.get(name), kinds.get(name, Any)) for name in {**kinds, **value})
    elif isinstance(value, list | tuple | dict):
        inner = get_args(kind)[-1] if get_args(kind) else Any
        named = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in named:
            if inner is not Any or isinstance(part, list | tuple | dict):
                yield name, part, inner
