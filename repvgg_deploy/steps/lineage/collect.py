"""The whole lineage of a model's folder, from its files alone; nothing is proved or timed anew."""

from __future__ import annotations

import platform
import shlex
from datetime import datetime, timezone
from pathlib import Path

from ... import __version__
from ...artifacts import EngineArtifact, FusedArtifact, OnnxArtifact, QuantizedArtifact
from ...errors import UserError
from ...workspace import ModelFolder
from .activations import find_images, measure_activations
from .commands import commands
from .evaluation import kept_evaluation, read_evaluation
from .files import Found, find_files
from .operators import count_operators
from .parts import Ranges
from .proofs import read_proofs
from .record import Absent, Evaluation, Report
from .speed import read_speed
from .training import find_int8_training, find_training
from .weights import Pair, read_pair, weight_ranges


def collect(folder: ModelFolder, evaluation: Path | None = None) -> Report:
    """``evaluation`` is a file that ``evaluate --json`` printed; None: what evaluate left here.

    What is not there yet, or is damaged, is said in the report.

    Raises:
        UserError: that evaluation cannot be used.
    """
    files = find_files(folder)
    found: Evaluation | Absent = (
        kept_evaluation(folder, files) if evaluation is None else read_evaluation(evaluation, files)
    )
    measured = read_speed(folder.bench, files)
    trained, int8 = find_training(files), find_int8_training(files)
    absent = _absent(folder, files)
    absent += [one for one in (trained, int8, measured, found) if isinstance(one, Absent)]
    training = None if isinstance(trained, Absent) else trained
    speed = None if isinstance(measured, Absent) else measured
    evaluated = None if isinstance(found, Absent) else found
    if speed is not None and not speed.rooflines:
        reason = "the benchmark has no roofline"
        absent.append(Absent("roofline", reason, f"repvgg-deploy bench {_place(folder)}"))
    pair = _pair(files)
    fused = next((f.artifact for f in files if isinstance(f.artifact, FusedArtifact)), None)
    return Report(
        model=folder.name,
        architecture="not known" if fused is None else fused.architecture,
        family="not known" if fused is None else fused.family,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=f"repvgg-deploy {__version__}",
        system={"system": platform.platform(), "Python": platform.python_version()},
        files=[found.entry for found in files],
        proofs=read_proofs(files),
        ranges=_ranges(files, pair),
        operators=count_operators(files, pair.train, pair.fused),
        training=training,
        int8_training=None if isinstance(int8, Absent) else int8,
        speed=speed,
        evaluation=evaluated,
        commands=commands(folder, files, training, speed, evaluated),
        absent=absent,
    )


def _pair(files: list[Found]) -> Pair:
    try:
        return read_pair(files)
    except UserError as error:
        return Pair(None, None, str(error).removesuffix("."))


def _ranges(files: list[Found], pair: Pair) -> Ranges:
    """Of weights where they can be read, of activations where there are images as well."""
    without = [f"before fusion: {pair.without}"] if pair.train is None else []
    if pair.fused is None:
        return Ranges([], [], "", 0, [f"after fusion: {pair.without}"])
    weights = weight_ranges(pair)
    if pair.fused.whole is None:
        why = "activations: fused weights of blocks are no whole network that could be run here"
        return Ranges(weights, [], "", 0, [*without, why])
    found = find_images(files)
    if found is None:
        why = "no sidecar names images that are here; quantize records those of its --calib"
        return Ranges(weights, [], "", 0, [*without, f"activations: {why}"])
    images, batches = found
    try:
        activations, samples = measure_activations(pair, batches)
    except (UserError, RuntimeError) as error:  # images that are damaged or do not fit the network
        why = f"activations: {images}: {str(error)[:200].removesuffix('.')}"
        return Ranges(weights, [], "", 0, [*without, why])
    return Ranges(weights, activations, images, samples, without)


def _absent(folder: ModelFolder, files: list[Found]) -> list[Absent]:
    """Arrows that were not gone yet."""
    kinds = {type(found.artifact) for found in files}
    place = _place(folder)
    steps = (
        (OnnxArtifact, "ONNX", f"repvgg-deploy export --onnx {place}"),
        (QuantizedArtifact, "int8", f"repvgg-deploy quantize --calib IMAGES {place}"),
        (EngineArtifact, "engine", f"repvgg-deploy export --trt fp16 {place}"),
    )
    return [
        Absent(name, "not made yet, or not what its sidecar says", line)
        for kind, name, line in steps
        if kind not in kinds
    ]


def _place(folder: ModelFolder) -> str:
    return shlex.join(["--model", folder.name, "--engines", str(folder.path.parent)])
