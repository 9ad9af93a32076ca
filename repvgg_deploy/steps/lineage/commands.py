"""The commands that make the files again, from what their sidecars record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artifacts import (
    EngineArtifact,
    FusedArtifact,
    FusedOnnxArtifact,
    OnnxArtifact,
    QuantizedArtifact,
)
from ...engine.options import BuildOptions, options_from_dict
from ...workspace import ModelFolder
from ..chain_contents import Artifact
from ..quantize_options import TRAINED
from .files import Found
from .record import Command, Evaluation, Speed, Training


def commands(
    folder: ModelFolder,
    files: list[Found],
    training: Training | None,
    speed: Speed | None,
    evaluation: Evaluation | None,
) -> list[Command]:
    """In the order in which they have to run.

    A file without a sidecar that holds has no command: nothing certain is known of it.
    """
    place = ["--model", folder.name, "--engines", str(folder.path.parent)]
    beside = {one.entry.name: one.artifact for one in files}
    found = []
    if training is not None:
        found.append(Command(training.checkpoint, training.record.command, True, ""))
    found += [
        Command(one.entry.name, line, _trained(one.artifact), unknown)
        for one in files
        if one.artifact is not None
        for line, unknown in [_command(one.artifact, beside.get(one.artifact.source.path), place)]
    ]
    if speed is not None:
        found.append(Command("bench.json", speed.command, True, ""))
    if evaluation is not None:
        options = ["--data", evaluation.data, *_preprocessing(evaluation.preprocessing)]
        options += ["--samples", str(evaluation.samples)]
        kept = evaluation.path == str(folder.evaluation)
        line = _line("evaluate", *options, *place, *([] if kept else ["--json"]))
        target = folder.evaluation.name if kept else evaluation.path
        found.append(Command(target, line, False, "--split, --labels"))
    return found


def _command(artifact: Artifact, source: Artifact | None, place: list[str]) -> tuple[str, str]:
    """The line, and what it leaves unknown; ``source`` is the record of what it was made from."""
    if isinstance(artifact, FusedArtifact):
        return _fuse(artifact, place), "images and device of the proof, --pth, --format"
    if isinstance(artifact, FusedOnnxArtifact):
        truth = _truth(artifact)
        line = _line("fuse", artifact.source.path, *truth, "--name", *place[1:])
        return line, "inputs of the proof, --allow-costlier"
    if isinstance(artifact, OnnxArtifact):
        kind = {"fp32": ["--onnx"], "fp16": ["--onnx", "--fp16"]}
        how = kind.get(artifact.precision, ["--trt", artifact.precision])
        return _line("export", *how, *_exported(artifact), *place), ""
    if isinstance(artifact, QuantizedArtifact):
        if _trained(artifact):
            return str(artifact.method.get("command", "")), ""
        return _quantize(artifact, place), ""
    return _engine(artifact, source, place)


def _trained(artifact: Artifact) -> bool:
    """Whether training made it: then what was typed is recorded."""
    return isinstance(artifact, QuantizedArtifact) and artifact.method["effort"] == TRAINED


def _fuse(artifact: FusedArtifact, place: list[str]) -> str:
    reading = artifact.reading
    ema = [] if reading.get("ema") is None else ["--ema" if reading["ema"] else "--no-ema"]
    options = [*_given("--eps", reading.get("eps")), *_given("--family", reading.get("family"))]
    if reading.get("strides"):
        options += ["--strides", ",".join(map(str, reading["strides"]))]
    options += _truth(artifact)
    unproved = artifact.proof is None and artifact.source_form == "train"
    options += [*ema, *(["--no-verify"] if unproved else [])]
    return _line("fuse", artifact.source.path, *options, "--name", *place[1:])


def _exported(artifact: OnnxArtifact) -> list[str]:
    batch, _, height, width = artifact.input_shape
    options = ["--opset", str(artifact.opset), "--size", f"{height}x{width}"]
    return options + _given("--batch", batch or None) + _truth(artifact)


def _quantize(artifact: QuantizedArtifact, place: list[str]) -> str:
    method, record, proof = artifact.method, artifact.calibration, artifact.proof
    options = ["--calib", record["path"], *_given("--split", record.get("split"))]
    options += _preprocessing(record["preprocessing"])
    options += ["--samples", str(record["samples"]), "--method", method["effort"]]
    options += ["--float", artifact.float_type, "--seed", str(method["seed"])]
    options += [] if method.get("stem", True) else ["--no-stem"]
    options += ["--linear"] if method.get("linear") else []
    options += _given("--min-sqnr", proof["min_sqnr_db"])
    options += _given("--max-drop", proof["max_drop"]) + _truth(artifact)
    if artifact.source.path.lower().endswith(".onnx"):
        return _line("quantize", artifact.source.path, *options, "--name", *place[1:])
    return _line("quantize", *options, *place)


def _preprocessing(record: Mapping[str, Any]) -> list[str]:
    """Every step by its own option; none where the images were inputs already."""
    if record.get("channels") is None:
        return ["--preprocess", "none"]
    options = ["--channels", str(record["channels"])]
    for name in ("resize", "crop"):
        value = record.get(name)
        text = "x".join(map(str, value)) if isinstance(value, list) else value
        options += [f"--{name}", "none" if text is None else str(text)]
    if record.get("resize") is not None:
        options += _given("--interpolation", record.get("interpolation"))
    for name in ("mean", "std"):
        options += [f"--{name}", ",".join(map(str, record.get(name) or []))]
    return options


def _engine(artifact: EngineArtifact, source: Artifact | None, place: list[str]) -> tuple[str, str]:
    options = ["--trt", artifact.precision, "--flavour", artifact.flavour]
    unknown = "--timing-cache, and with it the tactics" if artifact.flavour == "tensorrt" else ""
    try:
        options += _build_options(options_from_dict(artifact.options))
    except (TypeError, KeyError, AttributeError):
        unknown = "its build options, which are damaged"
    if isinstance(source, OnnxArtifact):
        return _line("export", *options, *_exported(source), *place), unknown
    if isinstance(source, QuantizedArtifact):
        return _line("export", *options, *place), unknown
    own = str(Path(place[3]) / place[1] / artifact.source.path)  # absolute if it lies elsewhere
    return _line("export", own, *options, "--name", *place[1:]), unknown


def _build_options(options: BuildOptions) -> list[str]:
    found = []
    for profile in options.profiles:
        found += ["--profile", f"{profile.min},{profile.opt},{profile.max}"]
    found += ["--target", ",".join(options.targets)] if options.targets else []
    found += _given("--workspace", options.workspace) + _given("--opt-level", options.opt_level)
    for name in ("tf32", "version_compatible", "hardware_compatible", "refittable"):
        found += ["--" + name.replace("_", "-")] if getattr(options, name) else []
    return found


def _truth(
    artifact: FusedArtifact | FusedOnnxArtifact | OnnxArtifact | QuantizedArtifact,
) -> list[str]:
    return _given("--truth", (artifact.truth or {}).get("path"))


def _given(option: str, value: object) -> list[str]:
    return [] if value is None else [option, str(value)]


def _line(*arguments: str) -> str:
    return shlex.join(["repvgg-deploy", *arguments])
