"""A TensorRT engine as Triton's TensorRT backend takes it."""

from __future__ import annotations

import re
import reprlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artifacts import EngineArtifact
from ...engine.options import Profile
from ...sidecar import sidecar_path
from .servable import (
    LARGEST,
    Servable,
    Tensor,
    check_precision,
    check_shapes,
    make_tensor,
    undamaged,
)


def engine_servable(path: Path, artifact: EngineArtifact) -> Servable:
    """An engine as its sidecar describes it: without a GPU nobody can ask the engine itself.

    Raises:
        UserError: the sidecar is damaged, or Triton cannot serve such an engine.
    """

    def servable() -> Servable:
        inputs = tuple(map(_tensor, artifact.inputs))
        portable = artifact.options.get("hardware_compatible") is True
        if not artifact.targets:
            raise ValueError("it has no targets")
        return _settle(
            Servable(
                path=path,
                sha256=artifact.sha256,
                precision=check_precision(artifact.precision),
                backend="tensorrt",
                inputs=inputs,
                outputs=tuple(map(_tensor, artifact.outputs)),
                profiles=tuple(_profile(entry, inputs) for entry in artifact.profiles),
                targets=() if portable else tuple(map(_capability, artifact.targets)),
                version=artifact.version,
                platform=artifact.platform,
                version_compatible=artifact.options.get("version_compatible") is True,
                proved=artifact.proof is not None,
            )
        )

    return check_shapes(undamaged(path, sidecar_path(path), servable))


def _settle(engine: Servable) -> Servable:
    """A batch that the profiles leave no choice in is a fixed one."""
    if not engine.inputs or not engine.dynamic:
        return replace(engine, profiles=())
    ranges = {(profile.min, profile.max) for profile in engine.profiles}
    if not ranges:
        raise ValueError("its batch is dynamic, and it has no profile")
    least, most = ranges.pop()
    if ranges or least != most:
        return engine

    def fixed(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            replace(t, shape=(least, *t.shape[1:])) if t.shape[0] == -1 else t for t in tensors
        )

    return replace(engine, inputs=fixed(engine.inputs), outputs=fixed(engine.outputs), profiles=())


def _capability(target: str) -> str:
    """``sm86`` -> ``8.6``, ``sm120`` -> ``12.0``, as Triton writes compute capabilities."""
    match = re.fullmatch(r"sm([0-9]{1,2})([0-9])", target)
    if match is None:
        raise ValueError(f"no target: {reprlib.repr(target)}")
    return f"{match[1]}.{match[2]}"


def _tensor(entry: Any) -> Tensor:
    return make_tensor(entry["name"], entry["dtype"], entry["shape"])


def _profile(entry: Any, inputs: tuple[Tensor, ...]) -> Profile:
    """The batch sizes of a profile, which are the first dimension of every input's shapes."""
    sizes = {tuple(entry[t.name][key][0] for key in ("min", "opt", "max")) for t in inputs}
    if len(sizes) != 1:
        raise ValueError("the batch sizes of its inputs differ")
    least, best, most = sizes.pop()
    if not 1 <= least <= best <= most <= LARGEST:
        raise ValueError(f"{reprlib.repr((least, best, most))} are no batch sizes")
    return Profile(least, best, most)
