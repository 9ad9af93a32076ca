"""Whether our Protocols promise what the Python API of a TensorRT has (tensorrt_api_dump.py)."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from inspect import Parameter, Signature
from types import FunctionType, ModuleType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

from repvgg_deploy.engine.module import TensorRT

#: How pybind11, old and new, writes the types of our Protocols; a class has its own name.
SPELLINGS: dict[object, set[str]] = {
    None: {"None"},
    bool: {"bool"},
    int: {"int", "SupportsInt"},
    str: {"str"},
    bytes: {"buffer", "Buffer"},
    tuple: {"tuple"},
    Sequence[int]: {"Dims", "tuple", "list"},
    list[Sequence[int]]: {"List[Dims]", "list[Dims]"},
}

#: Protocols of enums that TensorRT keeps inside a class.
NESTED = {"Severity": "ILogger.Severity"}


def broken_promises(api: dict[str, Any], modules: Sequence[ModuleType]) -> list[str]:
    """A line for everything in the Protocols of ``modules`` that the API does not have so."""
    protocols = [
        kind
        for module in modules
        for kind in vars(module).values()
        if is_protocol(kind) and kind.__module__ == module.__name__
    ]
    roots = [kind for kind in protocols if TensorRT in kind.__mro__]
    exposed = {kind: name for root in roots for name, kind in exposed_by(root)}
    broken = [line for root in roots for line in _broken_by_module(api, root)]
    for kind in protocols:
        if kind in exposed:
            broken += _broken_by_class_object(api["classes"], exposed[kind], kind)
        elif kind not in roots:
            broken += _broken_by_instances(api["classes"], kind)
    return broken


def is_protocol(kind: object) -> bool:
    return isinstance(kind, type) and Protocol in kind.__bases__


def promises(protocol: type) -> dict[str, Any]:
    """Its methods and properties, inherited ones too; what is only annotated, by its type."""
    found: dict[str, Any] = get_type_hints(protocol)
    for base in filter(is_protocol, protocol.__mro__):
        for name, value in vars(base).items():
            machinery = name in ("__init__", "__subclasshook__")  # typing puts them there
            if isinstance(value, (FunctionType, property)) and not machinery:
                found.setdefault(name, value)
    return found


def exposed_by(root: type) -> Iterator[tuple[str, type]]:
    """Names in the module of classes and enums that have a Protocol of their own."""
    for name, promise in promises(root).items():
        if isinstance(promise, property) and is_protocol(kind := _type_of(promise)):
            yield name, kind


def _broken_by_module(api: dict[str, Any], root: type) -> Iterator[str]:
    for name, promise in promises(root).items():
        if isinstance(promise, FunctionType):  # a class that we call
            ours = inspect.signature(promise, eval_str=True)
            made = ours.return_annotation.__name__
            theirs = api["classes"].get(name, {"methods": {}})["methods"].get("__init__", [])
            if made != name or not accepts(theirs, ours.replace(return_annotation=None)):
                yield f"{name}{ours}: it has {theirs or 'none'}"
        elif name not in api["attributes"]:
            yield f"{name}: it has none"


def _broken_by_class_object(classes: dict[str, Any], name: str, kind: type) -> Iterator[str]:
    """An enum, or a class whose own attributes we use, is used as an object itself."""
    real = classes.get(name, {"attributes": [], "attributes_of_type": []})
    enum = classes.get(NESTED.get(kind.__name__, name), {"members": []})
    for member, promise in promises(kind).items():
        if isinstance(promise, FunctionType):  # kind[...] asks the type of the class
            holds = member in real["attributes_of_type"]
        elif isinstance(promise, property):
            holds = member in real["attributes"]
        else:
            holds = member in real["attributes"] and member in enum["members"]
        if not holds:
            yield f"{name}.{member}: it has {', '.join(enum['members']) or 'none'}"


def _broken_by_instances(classes: dict[str, Any], kind: type) -> Iterator[str]:
    real = classes.get(kind.__name__)
    if real is None:
        yield f"{kind.__name__}: it has no such class"
        return
    for name, promise in promises(kind).items():
        theirs: list[str] | str
        if name == "__buffer__":
            holds, theirs = real["buffer"], "no buffer"
        elif isinstance(promise, FunctionType):
            theirs = real["methods"].get(name, [])
            holds = accepts(theirs, inspect.signature(promise, eval_str=True))
        else:
            theirs = real["getters"].get(name, "")
            settable = isinstance(promise, property) or name in real["setters"]
            holds = settable and bool(theirs) and fits(_type_of(promise), _returned(theirs))
        if not holds:
            yield f"{kind.__name__}.{name}: it has {theirs or 'none'}"


def accepts(overloads: Sequence[str], ours: Signature) -> bool:
    """Whether one overload takes every call that ours allows, by position and by name."""
    return any(_accepts(parse(theirs), ours) for theirs in overloads)


def _accepts(theirs: Signature, ours: Signature) -> bool:
    real, mine = list(theirs.parameters.values())[1:], list(ours.parameters.values())[1:]
    return (
        len(mine) <= len(real)
        and all(_takes(real[i], parameter) for i, parameter in enumerate(mine))
        and all(parameter.default is not Parameter.empty for parameter in real[len(mine) :])
        and fits(ours.return_annotation, theirs.return_annotation)
    )


def _takes(real: Parameter, mine: Parameter) -> bool:
    may_be_left_out = mine.default is Parameter.empty or real.default is not Parameter.empty
    return real.name == mine.name and may_be_left_out and fits(mine.annotation, real.annotation)


def fits(ours: object, theirs: str) -> bool:
    """Whether a type of ours is what pybind11 names; it never says that None may come back."""
    parts = get_args(ours) if get_origin(ours) in (Union, UnionType) else (ours,)
    plain = re.sub(r"\w+\.", "", theirs)  # list[tensorrt.Dims] -> list[Dims]
    return any(part in (Any, object) or plain in _spellings(part) for part in parts)


def _spellings(ours: Any) -> set[str]:
    if is_protocol(ours):
        return {ours.__name__, f"I{ours.__name__}"}  # nvonnxparser::IParserError in C++
    return SPELLINGS.get(ours) or SPELLINGS.get(get_origin(ours), set())


def parse(signature: str) -> Signature:
    """Of pybind11's ``name(self: a.B, c: int = <Enum.D: 0>) -> d::E``; types stay text."""
    text = re.sub(r"= <.*?>(?=[,)])", "= ...", signature).replace("::", ".")
    (function,) = ast.parse(f"def {text}: ...").body
    assert isinstance(function, ast.FunctionDef)
    assert function.returns is not None
    names = function.args.args
    defaults = [Parameter.empty] * (len(names) - len(function.args.defaults))
    parameters = [
        Parameter(
            name.arg,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=default,
            annotation=ast.unparse(name.annotation) if name.annotation else "",
        )
        for name, default in zip(names, [*defaults, *function.args.defaults], strict=True)
    ]
    return Signature(parameters, return_annotation=ast.unparse(function.returns))


def _returned(getter: str) -> str:
    return str(parse(f"get{getter}").return_annotation)


def _type_of(promise: Any) -> Any:
    """Of a property, or of what is only annotated and stands for its type already."""
    if isinstance(promise, property):
        return inspect.signature(promise.fget, eval_str=True).return_annotation
    return promise
