"""repvgg-deploy: folds re-parameterized ConvNet blocks into single convolutions and proves it.

The names below are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .equivalence.modules import ModuleProof, prove_modules
    from .errors import CheckFailed, RepvggDeployError, UserError
    from .reparam.family import BlockFamily, Branch, conv_bn, norm
    from .reparam.modules.fuse import FusedModule, LeftModule, ModuleFusion, fuse, fuse_modules
    from .serving.in_process import Engine

__version__ = "0.1.0"

_HOMES = {
    "BlockFamily": "reparam.family",
    "Branch": "reparam.family",
    "CheckFailed": "errors",
    "Engine": "serving.in_process",
    "FusedModule": "reparam.modules.fuse",
    "LeftModule": "reparam.modules.fuse",
    "ModuleFusion": "reparam.modules.fuse",
    "ModuleProof": "equivalence.modules",
    "RepvggDeployError": "errors",
    "UserError": "errors",
    "conv_bn": "reparam.family",
    "fuse": "reparam.modules.fuse",
    "fuse_modules": "reparam.modules.fuse",
    "norm": "reparam.family",
    "prove_modules": "equivalence.modules",
}

__all__ = [
    "BlockFamily",
    "Branch",
    "CheckFailed",
    "Engine",
    "FusedModule",
    "LeftModule",
    "ModuleFusion",
    "ModuleProof",
    "RepvggDeployError",
    "UserError",
    "conv_bn",
    "fuse",
    "fuse_modules",
    "norm",
    "prove_modules",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
