"""Dataclasses from the JSON that they were written as: a file may hold anything."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")

#: In bytes: six million samples of a benchmark.
_LARGEST = 1 << 28


def load_json(path: Path, largest: int = _LARGEST) -> Any:
    """What a file of at most ``largest`` bytes holds; every number is finite.

    Raises:
        OSError, ValueError, RecursionError: says why there is none.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        text = stream.read(largest + 1)
    if len(text) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is no number")
    return number


def read_json(path: Path, kind: type[T]) -> T:
    """A file as a dataclass.

    Raises:
        OSError, ValueError, TypeError, RecursionError: says why there is none.
    """
    return rebuild(kind, load_json(path))


def rebuild(kind: type[T], data: object, where: str = "it") -> T:
    """``data``, as JSON has it, as a ``kind``: no field too many, too few, or of another type.

    Raises:
        TypeError, ValueError: says where.
    """
    return cast(T, _value(kind, data, where))


def _value(kind: Any, data: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if data is None else _value(inner[0], data, where)
    if origin is Literal:
        if data not in inner:
            raise ValueError(f"{where} is none of {', '.join(inner)}")
        return data
    if dataclasses.is_dataclass(kind):
        return _instance(kind, data, where)
    plain = origin or kind
    if plain is Any:
        return data
    if plain in (list, tuple):
        data = list(data) if isinstance(data, tuple) else data
        _require(data, list, where)
        fixed = plain is tuple and inner[-1] is not Ellipsis
        kinds = inner if fixed else inner[:1] * len(data)
        if len(data) != len(kinds):
            raise ValueError(f"{where} has not {len(kinds)} values")
        parts = enumerate(zip(kinds, data, strict=True))
        return plain(_value(its_kind, part, f"{where}[{i}]") for i, (its_kind, part) in parts)
    if plain is dict:
        _require(data, dict, where)
        return {key: _value(inner[1], part, f"{where}.{key}") for key, part in data.items()}
    if plain is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    _require(data, plain, where)
    return data


def _instance(kind: Any, data: Any, where: str) -> Any:
    _require(data, dict, where)
    known: Mapping[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(kind)}
    if foreign := set(data) - set(known):
        raise ValueError(f"{where} has {min(foreign)!r}, which does not belong there")
    for name, field in known.items():
        optional = field.default is not dataclasses.MISSING
        optional = optional or field.default_factory is not dataclasses.MISSING
        if name not in data and not optional:
            raise ValueError(f"{where} has no {name!r}")
    kinds = get_type_hints(kind)
    return kind(
        **{name: _value(kinds[name], part, f"{where}.{name}") for name, part in data.items()}
    )


def _require(data: object, kind: Any, where: str) -> None:
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise TypeError(f"{where} is no {kind.__name__}")
