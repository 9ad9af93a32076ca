"""What can be asked of the builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Precisions of a strongly typed engine; the last two need a Q/DQ ONNX model.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTIZED = ("int8", "fp8")


@dataclass(frozen=True)
class Profile:
    """Batch sizes of an optimization profile: it runs min to max and is tuned for opt."""

    min: int
    opt: int
    max: int


DEFAULT_PROFILE = Profile(1, 32, 128)


@dataclass(frozen=True)
class BuildOptions:
    """Settings of one build. None: the builder's own default.

    ``profiles``: none for DEFAULT_PROFILE where the batch is dynamic. ``targets`` are RTX compute
    capabilities such as ``sm89``; TensorRT takes none and builds for this machine's GPU.
    ``workspace`` is in bytes, ``opt_level`` 0 to 5. ``tf32`` lets float32 convolutions round their
    inputs to TF32. ``version_compatible``: newer TensorRT loads it too; ``hardware_compatible``:
    every GPU from Ampere on; ``refittable``: weights can be replaced.
    """

    profiles: tuple[Profile, ...] = ()
    targets: tuple[str, ...] = ()
    workspace: int | None = None
    opt_level: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False


def options_from_dict(data: Mapping[str, Any]) -> BuildOptions:
    """Of what dataclasses.asdict made, be it through JSON."""
    profiles = tuple(Profile(**profile) for profile in data["profiles"])
    return BuildOptions(**{**data, "profiles": profiles, "targets": tuple(data["targets"])})
