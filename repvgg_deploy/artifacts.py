"""What crosses a stage: the records of files, which their sidecars hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from . import __version__
from .records import check_engine, check_quantized

#: Who made an ONNX model, as export writes it.
PRODUCER = "repvgg-deploy"


@dataclass(frozen=True)
class Source:
    """The file that an artifact was made from; the chain of these is the lineage."""

    path: str
    sha256: str


@dataclass(frozen=True)
class FusedArtifact:
    """Deploy-form weights: safetensors in the key names of their code base's own deploy form.

    ``source_form`` is ``deploy`` where the checkpoint was fused already: then there is no
    training form to measure against. ``reading`` says how the checkpoint was read (eps, family,
    moving average, strides). ``spec`` is None where the file holds no whole RepVGG network, and
    ``not_whole`` says why. ``proof`` holds the equivalence proof, None if skipped.
    ``assumptions`` is what the file does not say (steps/assumptions.py). ``truth`` is how the
    network compares with recorded outputs (equivalence/truth.py), None if none were given.
    """

    file: str
    sha256: str
    source: Source
    source_form: str
    family: str
    architecture: str
    reading: dict[str, Any]
    spec: dict[str, Any] | None
    proof: dict[str, Any] | None
    not_whole: str = ""
    assumptions: dict[str, Any] | None = None
    truth: dict[str, Any] | None = None
    tool: str = f"repvgg-deploy {__version__}"
    created: str = field(default_factory=lambda: _now())


@dataclass(frozen=True)
class OnnxArtifact:
    """An ONNX model of the deploy form. ``input_shape`` is [batch, C, H, W], batch 0: dynamic.

    ``truth`` is as in FusedArtifact.
    """

    file: str
    sha256: str
    source: Source
    precision: str
    opset: int
    input_name: str
    output_name: str
    input_shape: list[int]
    operators: dict[str, int]
    proof: dict[str, Any]
    truth: dict[str, Any] | None = None
    tool: str = f"repvgg-deploy {__version__}"
    created: str = field(default_factory=lambda: _now())

    def __post_init__(self) -> None:
        if len(self.input_shape) != 4:
            raise ValueError("input_shape has not four dimensions")


@dataclass(frozen=True)
class EngineArtifact:
    """A TensorRT engine: plain engine bytes.

    ``flavour`` is tensorrt or rtx. ``targets`` are the compute capabilities it was built for
    (sm86, ...); ``gpu`` is the GPU that TensorRT built it on, None for RTX; ``platform`` like
    ``linux-x86_64``. ``inputs`` and ``outputs`` hold name, dtype and shape, -1 where a dimension is
    dynamic; ``profiles`` map every input to its min, opt and max shape. ``layers`` is the typed
    network: what every weighted layer reads, weighs with and writes; ``inspected`` the same of the
    finished engine, None where there was no GPU to ask. ``options`` are the build options.
    ``data`` maps the files that hold the ONNX model's large weights to their SHA-256. ``lineage``
    leads from ``source``, the ONNX model, to the checkpoint. ``proof`` is None until the engine has
    run.
    """

    file: str
    sha256: str
    source: Source
    lineage: list[dict[str, str]]
    flavour: str
    version: str
    platform: str
    targets: list[str]
    gpu: dict[str, Any] | None
    precision: str
    layers: list[dict[str, Any]]
    inspected: list[dict[str, Any]] | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    profiles: list[dict[str, dict[str, list[int]]]]
    options: dict[str, Any]
    warnings: list[str]
    proof: dict[str, Any] | None
    data: dict[str, str] = field(default_factory=dict)
    tool: str = f"repvgg-deploy {__version__}"
    created: str = field(default_factory=lambda: _now())

    def __post_init__(self) -> None:
        check_engine(vars(self))


@dataclass(frozen=True)
class FusedOnnxArtifact:
    """A fused ONNX graph. ``data`` maps the files beside it that hold its large weights to their
    SHA-256.

    ``fused`` and ``left`` are the regions that became one Conv, and those that did not and why.
    ``truth`` is as in FusedArtifact.
    """

    file: str
    sha256: str
    source: Source
    data: dict[str, str]
    fused: list[dict[str, Any]]
    left: list[dict[str, Any]]
    proof: dict[str, Any] | None
    truth: dict[str, Any] | None = None
    tool: str = f"repvgg-deploy {__version__}"
    created: str = field(default_factory=lambda: _now())


@dataclass(frozen=True)
class QuantizedArtifact:
    """An int8 ONNX model with Q/DQ nodes.

    ``float_type`` (fp32 or fp16) is what is not quantized. ``input_shape`` is [batch, C, H, W],
    batch 0: dynamic. ``method`` says how it was quantized: effort, seed, and what was switched on.
    ``calibration`` holds path, sha256, samples and preprocessing of the images. ``layers`` has
    every weighted layer: name, quantized, input_scale (None: in float), reason (why it is in float,
    else empty), and figures. ``data`` maps the file with the integers of the fake-quantized
    network, beside this one, to its SHA-256; empty for a graph that torch has no network of.
    ``proof`` is as :func:`~repvgg_deploy.records.check_quantized` has it, ``truth`` as in
    FusedArtifact.
    """

    file: str
    sha256: str
    source: Source
    precision: str
    float_type: str
    opset: int
    input_name: str
    output_name: str
    input_shape: list[int]
    operators: dict[str, int]
    method: dict[str, Any]
    calibration: dict[str, Any]
    layers: list[dict[str, Any]]
    data: dict[str, str]
    proof: dict[str, Any]
    truth: dict[str, Any] | None = None
    tool: str = f"repvgg-deploy {__version__}"
    created: str = field(default_factory=lambda: _now())

    def __post_init__(self) -> None:
        check_quantized(vars(self))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
