"""A model's artifacts become models of a Triton repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts import EngineArtifact, FusedArtifact
from ...errors import CheckFailed, UserError
from ...files import is_onnx
from ...sidecar import read_sidecar
from ...workspace import ModelFolder
from .engine import engine_servable
from .group import check_name, group
from .labels import check_labels, known_labels, read_labels
from .model import LABELS_FILE, Scheduling, TritonModel, check_batches, configuration
from .onnx_model import onnx_files, onnx_servable, read_onnx
from .pbtxt import render
from .repository import CONFIG_FILE, check_ours, sign, write_model
from .servable import Servable

_NOT_EXPORTED = (
    "was not written by export, which alone says what Triton has to know of it; serve an engine "
    "that is built from it, by export MODEL.onnx --trt"
)
_RTX = (
    "is a TensorRT-RTX engine, which Triton's backends do not load; serve the ONNX model, or a "
    "TensorRT engine"
)


@dataclass(frozen=True)
class LeftOut:
    """An artifact that Triton cannot load, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class TritonPlan:
    """What serve is about to write, all of it checked. ``labels``: class names by model, where
    they are known. ``fused``: whether fused weights lie here, which the artifacts come from."""

    root: Path
    fused: bool
    models: list[TritonModel]
    labels: dict[str, list[str]]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class Written:
    """A model of the repository as it stands now. ``changed``: whether this version is new;
    ``labels``: how many class names it has."""

    name: str
    version: int
    changed: bool
    files: list[Path]
    artifacts: list[str]
    max_batch_size: int
    preferred_batch_size: list[int]
    labels: int


def plan_triton(
    folder: ModelFolder,
    root: Path,
    *,
    artifacts: Sequence[str] = (),
    name: str | None = None,
    labels: Path | None = None,
    scheduling: Scheduling | None = None,
) -> TritonPlan:
    """Read and check everything, and write nothing.

    ``artifacts`` are file names in the model's folder, none: all that Triton can load. ``name``
    takes the place of the model's own in the names of Triton's models.

    Raises:
        UserError: nothing to serve, an artifact that is damaged, not from these weights or of no
            use to Triton, names that collide, or a folder that is not ours to change.
    """
    base = folder.name if name is None else name
    check_name(base)
    fused = folder.read_fused() if folder.fused.exists() else None
    given = read_labels(labels) if labels is not None else None
    servables, left_out = _collect(folder, fused, artifacts)
    scheduling = scheduling or Scheduling()
    models = group(servables, base, scheduling)
    check_batches(models, scheduling)
    named: dict[str, list[str]] = {}
    known = given
    if given is None and fused is not None:
        known = known_labels(fused)
    for model in models:
        if given is not None and labels is not None:
            check_labels(labels, given, model.first.path, model.classes)
        if known is not None and model.classes == len(known):
            named[model.name] = known
        check_ours(root / model.name)
    return TritonPlan(root, fused is not None, models, named, left_out)


def write_triton(plan: TritonPlan, model: TritonModel) -> Written:
    """Write one of the planned models; what is there of it already stays.

    Raises:
        UserError: the folder cannot be written to, or an artifact changed meanwhile.
    """
    labels = plan.labels.get(model.name, [])
    texts = {CONFIG_FILE: sign(render(configuration(model, labelled=bool(labels))))}
    if labels:
        texts[LABELS_FILE] = "".join(f"{label}\n" for label in labels)
    folder = plan.root / model.name
    version, changed = write_model(folder, model.files, texts)
    return Written(
        name=model.name,
        version=version,
        changed=changed,
        files=[folder / str(version) / file for file in model.files],
        artifacts=[member.path.name for member in model.members],
        max_batch_size=model.max_batch,
        preferred_batch_size=model.preferred,
        labels=len(labels),
    )


def _collect(
    folder: ModelFolder, fused: FusedArtifact | None, asked: Sequence[str]
) -> tuple[list[Servable], list[LeftOut]]:
    paths = _choose(folder, asked)
    servables: list[Servable] = []
    left_out = [] if asked else _other_models(folder)
    for path in paths:
        if is_onnx(path):
            onnx = read_onnx(path)
            _check_proof(path, onnx.proof)
            _check_lineage(path, fused, {onnx.source.sha256})
            servables.append(onnx_servable(path, onnx))
            continue
        engine = read_sidecar(path, EngineArtifact)
        if engine.flavour == "rtx":
            if asked:
                raise UserError(f"{path}: {_RTX}.")
            left_out.append(LeftOut(path.name, _RTX))
            continue
        _check_proof(path, engine.proof)
        _check_lineage(path, fused, {step["sha256"] for step in engine.lineage})
        servables.append(engine_servable(path, engine))
    if not servables:
        first = left_out[-1]
        raise UserError(
            f"{folder.path}: holds nothing that Triton loads: {first.file} {first.reason}."
        )
    return servables, left_out


def _other_models(folder: ModelFolder) -> list[LeftOut]:
    others = {path for path in folder.path.iterdir() if is_onnx(path)} - {*onnx_files(folder)}
    return [LeftOut(path.name, _NOT_EXPORTED) for path in sorted(others)]


def _choose(folder: ModelFolder, asked: Sequence[str]) -> list[Path]:
    found = {path.name: path for path in (*onnx_files(folder), *folder.engine_files())}
    if not found:
        raise UserError(
            f"{folder.path}: holds no ONNX model and no engine yet; run repvgg-deploy export "
            "--onnx first."
        )
    for name in asked:
        if name not in found:
            raise UserError(
                f"--artifact {name}: is not in {folder.path} by that name; give one of "
                f"{', '.join(found)}."
            )
    return [path for name, path in found.items() if name in asked or not asked]


def _check_proof(path: Path, proof: dict[str, Any] | None) -> None:
    if proof is not None and proof.get("passed") is False:
        raise CheckFailed(f"{path}: failed its proof; run export again.")


def _check_lineage(path: Path, fused: FusedArtifact | None, origins: set[str]) -> None:
    if fused is not None and fused.sha256 not in origins:
        raise UserError(
            f"{path}: was made from other fused weights than lie here now; run export again."
        )
