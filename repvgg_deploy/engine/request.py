"""What the building process is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .options import BuildOptions, options_from_dict


@dataclass(frozen=True)
class BuildRequest:
    """``module`` is tensorrt or tensorrt_rtx. Paths are strings, since this crosses as JSON.

    ``timing_cache`` is read from ``timing_cache``, None for an empty one, and goes to
    ``new_cache``; without ``new_cache`` none is used.
    """

    module: str
    onnx: str
    engine: str
    precision: str
    options: BuildOptions
    timing_cache: str | None = None
    new_cache: str | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BuildRequest:
        """Of what dataclasses.asdict made."""
        return cls(**{**data, "options": options_from_dict(data["options"])})


@dataclass(frozen=True)
class BuildReport:
    """The engine's part of the sidecar: see EngineArtifact.

    ``cache_fits`` is False where the timing cache is another version's or GPU's, and was not used.
    """

    version: str
    targets: list[str]
    layers: list[dict[str, Any]]
    inspected: list[dict[str, Any]] | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    profiles: list[dict[str, dict[str, list[int]]]]
    cache_fits: bool = True
