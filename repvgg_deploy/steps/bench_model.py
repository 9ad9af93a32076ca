"""bench: what the workspace holds of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..artifacts import FusedArtifact, OnnxArtifact
from ..bench.record import Subject
from ..errors import UserError
from ..models.baseline import fold_conv_bn
from ..models.network import RepVGG
from ..sidecar import lineage, read_sidecar, sidecar_path
from ..workspace import ModelFolder
from .bench_subjects import (
    FOLDED,
    FUSED,
    KINDS,
    RAW,
    Entrant,
    Size,
    in_precision,
    network_entrant,
    onnx_entrant,
    renamed,
    weight_bytes,
)
from .chain_contents import contradiction
from .image_size import model_image_size
from .verify import source_checkpoint
from .weights import TORCH_DTYPE, Reading, read_weights

_NOTHING_UNFUSED = "the checkpoint was fused already, so there is no unfused network to compare"


@dataclass
class ModelSubjects:
    """``networks`` are the unfused forms and the fused one by name, float32; ``notes`` say what is
    left out and why."""

    folder: ModelFolder
    fused: FusedArtifact
    size: Size
    networks: dict[str, RepVGG]
    entrants: list[Entrant] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def model_subjects(
    folder: ModelFolder, size: Size | None, precisions: Sequence[str]
) -> ModelSubjects:
    """The unfused forms, the fused network, and the ONNX models that export and quantize left.

    ``size`` None: as export chooses it. ``precisions`` none:
    the networks in float32 and every ONNX model; else the networks and models of those.

    Raises:
        UserError: the checkpoint is gone or has changed, or a file is not what its sidecar says.
    """
    fused = folder.read_fused()
    deploy = read_weights(folder.fused).network
    size = size or model_image_size(folder, deploy.spec)
    unfused = _unfused(fused)
    found = ModelSubjects(folder, fused, size, {**unfused, FUSED: deploy.build()})
    if not unfused:
        found.notes.append(_NOTHING_UNFUSED)
    wanted = [p for p in precisions if p in TORCH_DTYPE] if precisions else ["fp32"]
    files = dict(_float_files(found, precisions or list(TORCH_DTYPE)))
    for precision in wanted:
        for form, network in found.networks.items():
            file = files.pop(precision, None) if form == FUSED else None
            found.entrants.append(_entrant(found, form, network, precision, file))
    for precision, path in files.items():  # of which torch runs no network
        entrant = onnx_entrant(path, in_precision(FUSED, precision))
        found.entrants.append(renamed(entrant, "fused"))
    if not precisions or "int8" in precisions:
        found.entrants += _quantized(found)
    return found


def _entrant(
    found: ModelSubjects, form: str, network: RepVGG, precision: str, file: Path | None
) -> Entrant:
    fused, folder = found.fused, found.folder
    path = str(folder.fused) if form == FUSED else fused.source.path
    subject = Subject(
        in_precision(form, precision),
        KINDS[form],
        precision,
        found.size,
        path,
        fused.sha256 if form == FUSED else fused.source.sha256,
        weight_bytes(network, precision),
    )
    if file is not None:
        found.notes.append(f"{subject.label}: ONNX runtimes run {file.name}, which export left")
    return network_entrant(network, subject, fused.source.sha256, file)


def _unfused(fused: FusedArtifact) -> dict[str, RepVGG]:
    """The training network as it is and with conv-BN folded; empty where there is none."""
    if fused.source_form != "train":
        return {}
    train = read_weights(source_checkpoint(fused), Reading.of(fused)).network.build()
    return {RAW: train, FOLDED: fold_conv_bn(train)}


def _float_files(found: ModelSubjects, precisions: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The exported models that can be measured at that size and at every batch."""
    for path in found.folder.onnx_files():
        artifact = read_sidecar(path, OnnxArtifact)
        if differs := contradiction(path, artifact):
            raise UserError(f"{path}: {differs}; export it again.")
        if artifact.precision in precisions and _usable(found, path, artifact.input_shape):
            yield artifact.precision, path


def _quantized(found: ModelSubjects) -> Iterator[Entrant]:
    folder = found.folder
    others = {folder.fused_onnx, *folder.onnx_files()}
    for path in sorted(folder.path.glob("*.onnx")):
        if path in others or not sidecar_path(path).exists():
            continue  # not ours to judge
        one = onnx_entrant(path, path.name)
        if _usable(found, path, [one.batch or 0, one.channels, *one.subject.image_size]):
            yield one


def _usable(found: ModelSubjects, path: Path, shape: list[int]) -> bool:
    """Whether it is of these weights and this image size, and takes any batch; else a note."""
    batch, _, height, width = shape
    reason = ""
    if found.fused.sha256 not in {source.sha256 for source in lineage(path)}:
        reason = "it was not made from the fused weights of its folder"
    elif (height, width) != found.size:
        reason = f"it takes images of {height}x{width} pixels"
    elif batch:
        reason = f"it takes batches of {batch} images alone; name it to measure it at that"
    if reason:
        found.notes.append(f"{path.name}: not measured, {reason}")
    return not reason


def proof_line(fused: FusedArtifact) -> str:
    """What the fused network's sidecar says of its proof."""
    if fused.proof is None:
        return "not proved (fused with --no-verify, or fused before)"
    ratio = fused.proof.get("end_to_end", {}).get("ratio")
    if not isinstance(ratio, float):
        return "damaged in the sidecar"
    return f"passed, error ratio {ratio:.2g}"
