"""mypy sees every use of TensorRT in engine/ and runners/, so that the contract test covers it.

mypy holds every attribute to a Protocol, but believes everything of Any and of a loaded module.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "repvgg_deploy"

#: The Protocols themselves; the contract test holds them to the bindings.
PROTOCOLS = {"api.py", "module.py", "rtx_api.py"}

UNTYPED = {"Any", "ModuleType"}
CONTAINERS = {"NDArray", "np.dtype", "dict", "Mapping"}  # of Any: arrays and JSON, no TensorRT
LOADERS = {"available", "require", "import_module"}

#: What getattr may look into: enums whose members versions lack or users name, and no TensorRT.
BY_NAME = ("ComputeCapability", "HardwareCompatibilityLevel")
OTHERS = {"signal", "self._cuda", "require('ml_dtypes')"}

#: What mypy says of an attribute that is missing, of a call that is wrong, and of no types at all.
SAYS = {"attr-defined", "union-attr", "call-arg", "arg-type", "call-overload", "no-untyped-def"}


def escapes(source: str, *, typed: bool = True) -> list[str]:
    """Where a file could use TensorRT unseen: a line each, with its number.

    ``typed``: its annotations count as well.
    """
    tree = ast.parse(source)
    found = [(node.lineno, ast.unparse(node)) for node in _unseen(tree, typed)]
    for number, line in enumerate(source.splitlines(), start=1):
        ignored = re.search(r"# type: ignore(?:\[([\w, -]*)\])?", line)
        if ignored and (ignored[1] is None or SAYS & set(re.findall(r"[\w-]+", ignored[1]))):
            found.append((number, ignored[0]))
    return [f"line {number}: {text}" for number, text in sorted(found)]


def _unseen(tree: ast.Module, typed: bool) -> Iterator[ast.stmt | ast.expr]:
    if typed:
        yield from (type_ for type_ in _types(tree) if _is_untyped(type_))
    loaded = {ast.unparse(name) for name, value in _assigned(tree) if _loads_tensorrt(value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) in loaded or _loads_tensorrt(node.value):
                yield node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            if any(name.split(".")[0] in ("tensorrt", "tensorrt_rtx") for name in names):
                yield node
        elif _calls(node, {"getattr"}):
            of = ast.unparse(node.args[0])
            if not of.endswith(BY_NAME) and of not in OTHERS:
                yield node


def _assigned(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr):
            yield node.target, node.value
        for name in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(name, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(name.elts, node.value.elts, strict=False)
            else:
                yield name, node.value


def _types(tree: ast.Module) -> Iterator[ast.expr]:
    """Every annotation, and what is cast to."""
    for node in ast.walk(tree):
        for type_ in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if type_ is not None:
                yield type_
        if _calls(node, {"cast"}):
            yield node.args[0]


def _is_untyped(type_: ast.expr) -> bool:
    if isinstance(type_, ast.Subscript) and ast.unparse(type_.value) in CONTAINERS:
        return False
    if isinstance(type_, ast.Name):
        return type_.id in UNTYPED
    return any(_is_untyped(part) for part in ast.iter_child_nodes(type_))


def _loads_tensorrt(node: ast.expr) -> bool:
    """A module that is or may be TensorRT, as ``optional`` gives it."""
    if not _calls(node, LOADERS):
        return False
    name = node.args[0]
    return not isinstance(name, ast.Constant) or str(name.value).startswith("tensorrt")


def _calls(node: ast.AST, names: set[str]) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    return called in names


@pytest.mark.parametrize("room", ["engine", "runners"])
def test_no_use_of_tensorrt_is_unseen(room: str) -> None:
    files = [path for path in (PACKAGE / room).rglob("*.py") if path.name not in PROTOCOLS]
    assert files
    found = [
        f"{path.name} {line}"
        for path in files  # other runtimes' objects have no types, and no TensorRT behind them
        for line in escapes(path.read_text(), typed=not path.name.startswith(("onnx_", "openvino")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "def build(trt: Any) -> None: ...",
        "def build(trt: ModuleType) -> None: ...",
        "def layers() -> list[Any]: ...",
        "def engine() -> Any | None: ...",
        "async def wait(*args: Any, **options: Any) -> None: ...",
        "builder: Any = make()",
        "builder = cast(Any, make())",
        "builder = typing.cast(Any, make())",
        "flag = getattr(trt.BuilderFlag, name)",
        "types = trt.DataType; float32 = getattr(types, 'FLOAT')",
        "builder = trt.Bulder(logger)  # type: ignore[attr-defined]",
        "builder = trt.Bulder(logger)  # type: ignore",
        "builder = trt.Builder()  # type: ignore[misc, call-arg]",
        "import tensorrt",
        "import tensorrt_rtx as trt",
        "from tensorrt import Builder",
        "builder = require('tensorrt').Builder(logger)",
        "trt = available('tensorrt_rtx'); trt.Builder(logger)",
        "trt = importlib.import_module(name); trt.Builder(logger)",
        "trt, gpu = available('tensorrt'), this_gpu(); trt.Builder(logger)",
        "if trt := available('tensorrt'): trt.Builder(logger)",
        "self._trt = available('tensorrt'); self._trt.Builder(logger)",
    ],
)
def test_what_would_be_unseen_is_told(line: str) -> None:
    assert escapes(line)


@pytest.mark.parametrize(
    "line",
    [
        "def build(trt: TensorRT, network: api.INetworkDefinition) -> api.IHostMemory | None: ...",
        "def step(batch: NDArray[Any], sidecar: dict[str, Any]) -> list[api.ILayer]: ...",
        "trt = cast(TensorRT, require('tensorrt'))",
        "found = available('tensorrt'); known = found is not None",
        "found, gpu = available('tensorrt'), this_gpu(); print(gpu.name)",
        "onnx = require('onnxruntime'); onnx.InferenceSession(path)",
        "target = getattr(trt.ComputeCapability, name)",
        "stop = getattr(signal, 'SIGKILL', None)",
        "class Relay(trt.ILogger): ...  # type: ignore[name-defined,misc]",
    ],
)
def test_what_mypy_sees_is_fine(line: str) -> None:
    assert escapes(line) == []
