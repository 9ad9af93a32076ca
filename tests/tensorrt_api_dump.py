"""Print the Python API of a TensorRT module as JSON: a process can import only one of them.

    python tensorrt_api_dump.py tensorrt_rtx

Signatures are in the docstrings, where pybind11 writes them.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import sys
from typing import Any


def signatures(name: str, method: object) -> list[str]:
    """``name(self: T, a: int = 0) -> str``, one for each overload."""
    line = rf"^(?:\d+\. )?({re.escape(name)}\(.*\) -> .*)$"
    return re.findall(line, method.__doc__ or "", re.MULTILINE)


def is_buffer(kind: type) -> bool:
    """Whether memoryview takes its instances; ``__buffer__`` tells it from Python 3.12 on only."""
    instance = kind.__new__(kind)
    return bool(ctypes.pythonapi.PyObject_CheckBuffer(ctypes.py_object(instance)))


def describe(kind: type) -> dict[str, Any]:
    attributes = {name: getattr(kind, name) for name in dir(kind)}
    properties = {name: it for name, it in attributes.items() if isinstance(it, property)}
    return {
        "attributes": list(attributes),
        "attributes_of_type": dir(type(kind)),
        "members": list(getattr(kind, "__members__", ())),
        "buffer": is_buffer(kind),
        "methods": {name: signatures(name, it) for name, it in attributes.items() if callable(it)},
        "getters": {
            name: (it.fget.__doc__ or "").strip() for name, it in properties.items() if it.fget
        },
        "setters": [name for name, it in properties.items() if it.fset],
    }


def classes(owner: object, prefix: str = "") -> dict[str, Any]:
    """Every pybind11 class by its name, nested ones as ``ILogger.Severity``."""
    found = {}
    for name, kind in vars(owner).items():
        if type(kind).__name__ == "pybind11_type":
            found[prefix + name] = describe(kind)
            found |= classes(kind, f"{prefix}{name}.")
    return found


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    json.dump({"attributes": dir(module), "classes": classes(module)}, sys.stdout)
