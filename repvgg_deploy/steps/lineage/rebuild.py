"""A dataclass from the JSON that it was written as."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

#: In bytes. A benchmark of a day keeps some millions of samples.
_LARGEST = 1 << 28


def read_json(path: Path, kind: type[T]) -> T:
    """A file as a dataclass.

    Raises:
        OSError, ValueError, TypeError, RecursionError: says why there is none.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        text = stream.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError("it is too large")
    return rebuild(kind, json.loads(text, parse_constant=_refuse))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


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
        _require(data, list, where)
        if plain is tuple and len(data) != len(inner):
            raise ValueError(f"{where} has not {len(inner)} values")
        return plain(_value(inner[0], part, f"{where}[{i}]") for i, part in enumerate(data))
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
