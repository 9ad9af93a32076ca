"""verify: the proof of equivalence, for any two of checkpoint, fused weights, ONNX and engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..artifacts import FusedArtifact, FusedOnnxArtifact
from ..checkpoint.hub import fetch, parse_hub
from ..engine.engine_file import is_engine
from ..engine.load import CheckedEngine, read_engine
from ..equivalence.graph import prove_graphs
from ..equivalence.graph_inputs import read_inputs
from ..equivalence.graph_weights import check_graph_weights
from ..equivalence.proof import prove_fusion
from ..equivalence.truth import TruthCheck
from ..equivalence.truth_file import Truth
from ..errors import UserError
from ..files import is_onnx, sha256_file
from ..models.spec import strides_text
from ..runners.onnx_info import OnnxInfo, read_onnx_info
from ..runners.torch_network import pick_device
from ..sidecar import read_sidecar
from .assumptions import find_assumptions
from .carried import check_network, made_from
from .fuse import refuse_images
from .truth import hold_graph, hold_weights
from .verdict import Verdict
from .verify_blocks import verify_blocks
from .verify_engine import compare_engine
from .verify_int8 import is_quantized, verify_int8
from .verify_int8_graph import verify_int8_graph
from .verify_onnx import verify_onnx
from .weights import BY_ITSELF, Reading, WeightsFile, proof_samples, read_weights

Subject = WeightsFile | OnnxInfo | CheckedEngine


def open_subject(path: Path, reading: Reading = BY_ITSELF) -> Subject:
    """A checkpoint, fused weights, ONNX model or engine."""
    if is_engine(path):
        return read_engine(path)
    return read_onnx_info(path) if is_onnx(path) else read_weights(path, reading)


def verify_pair(
    first: Path,
    second: Path,
    device: str = "auto",
    images: Path | None = None,
    reading: Reading = BY_ITSELF,
    truth: Truth | None = None,
) -> Verdict:
    """Judge a pair; the one nearer to training is the reference, whichever is named first.

    Of two ONNX models the first is the reference, or the one that is not quantized. ``reading``
    says how checkpoints are read; a moving average, if asked for, is taken from each that has one,
    which fused weights do not. ``truth`` are recorded outputs of the user's own model.

    Raises:
        UserError: a file that cannot be used, or networks that cannot be compared.
        CheckFailed: one of them does not give the recorded outputs.
    """
    if is_onnx(first) and is_onnx(second):
        if is_quantized(first) and not is_quantized(second):
            first, second = second, first
        held = () if truth is None else tuple(hold_graph(path, truth) for path in (first, second))
        return replace(_verify_graphs(first, second, images), truth=held)
    lenient = average_where_held(reading)
    subjects = (open_subject(first, lenient), open_subject(second, lenient))
    if reading.ema and not any(map(_is_average, subjects)):
        raise UserError(
            f"{first}: holds no moving average, and neither does {second}; leave out --ema."
        )
    reference, candidate = sorted(subjects, key=_distance_from_training)
    target = pick_device(device)
    weights = [subject for subject in (reference, candidate) if isinstance(subject, WeightsFile)]
    return replace(
        _compare(reference, candidate, target, images),
        truth=() if truth is None else _hold(reference, candidate, target, truth),
        assumptions=tuple((one.path, find_assumptions(one)) for one in weights),
    )


def _compare(
    reference: Subject, candidate: Subject, target: torch.device, images: Path | None
) -> Verdict:
    """The reference is nearer to training."""
    if isinstance(candidate, CheckedEngine):  # sorted: an engine comes last
        if isinstance(reference, CheckedEngine):
            raise UserError(
                f"{reference.path}: is an engine, as is {candidate.path}; compare each with what "
                "it was built from."
            )
        end_to_end = compare_engine(reference, candidate, target, images)
        return Verdict(reference.path, candidate.path, end_to_end, None, str(target))
    if isinstance(reference, WeightsFile) and isinstance(candidate, WeightsFile):
        if reference.whole is None or candidate.whole is None:
            if images is not None:
                refuse_images((reference if reference.whole is None else candidate).path)
            return verify_blocks(reference, candidate, target)
        return _verify_networks(reference, candidate, target, images)
    assert isinstance(reference, WeightsFile)
    assert isinstance(candidate, OnnxInfo)
    verify = verify_int8 if is_quantized(candidate.path) else verify_onnx
    return verify(reference, candidate, target, images)


def _hold(
    reference: Subject, candidate: Subject, device: torch.device, truth: Truth
) -> tuple[TruthCheck, ...]:
    """Both on recorded inputs; an engine is held against its reference alone."""
    network = reference.network if isinstance(reference, WeightsFile) else None
    return tuple(
        hold_graph(subject.path, truth, network=network)
        if isinstance(subject, OnnxInfo)
        else hold_weights(subject, truth, device)
        for subject in (reference, candidate)
        if not isinstance(subject, CheckedEngine)
    )


def source_checkpoint(artifact: FusedArtifact) -> Path:
    """The checkpoint a fused network was made from; UserError where it is gone or has changed."""
    on_hub = parse_hub(artifact.source.path)
    path = Path(artifact.source.path) if on_hub is None else fetch(on_hub).path
    if not path.exists():
        raise UserError(
            f"{path}: the training checkpoint of this model is gone; put it back there, "
            "or fuse it again from where it is now."
        )
    if sha256_file(path) != artifact.source.sha256:
        raise UserError(
            f"{path}: has changed since {artifact.file} was made from it; put the old one back, or "
            "fuse the new one under another --name."
        )
    return path


def average_where_held(reading: Reading) -> Reading:
    """Without the demand for a moving average, which fused weights and ONNX models cannot meet."""
    return replace(reading, ema=None) if reading.ema else reading


def _is_average(subject: Subject) -> bool:
    return isinstance(subject, WeightsFile) and subject.checkpoint.averaged


def _distance_from_training(subject: Subject) -> int:
    if isinstance(subject, CheckedEngine):
        return 3
    if isinstance(subject, OnnxInfo):
        return 2
    return 0 if subject.form == "train" else 1


def _verify_networks(
    reference: WeightsFile, candidate: WeightsFile, device: torch.device, images: Path | None
) -> Verdict:
    first, second = reference.network, candidate.network
    if (first.spec.blocks, first.spec.num_classes) != (
        second.spec.blocks,
        second.spec.num_classes,
    ):
        strides = [strides_text(spec.strides, ",") for spec in (first.spec, second.spec)]
        if strides[0] != strides[1]:
            raise UserError(
                f"{candidate.path}: has the strides {strides[1]}, and {reference.path} "
                f"{strides[0]}; give those of the network with --strides."
            )
        raise UserError(
            f"{candidate.path}: is of another architecture than {reference.path}; name two forms "
            "of one network."
        )
    samples = proof_samples(first.spec, images)
    proof = prove_fusion(first.build(), second.build(), samples, device)
    weights = check_network(reference, candidate, made_from(candidate.path, reference.path))
    return Verdict(
        reference.path, candidate.path, proof.end_to_end, proof, str(device), weights=weights
    )


def _verify_graphs(reference: Path, candidate: Path, inputs: Path | None) -> Verdict:
    """Two ONNX models of any inputs and outputs."""
    if is_quantized(candidate) and not is_quantized(reference):
        return verify_int8_graph(reference, candidate, inputs)
    samples = None if inputs is None else read_inputs(inputs)
    regions = _region_ends(reference, candidate)
    weights = check_graph_weights(reference, candidate, regions)
    alone = not (weights.exact or weights.failures)
    proof = prove_graphs(reference, candidate, samples, regions or (), alone=alone)
    return Verdict(
        reference, candidate, proof.worst_output, None, "cpu", graphs=proof, weights=weights
    )


def _region_ends(reference: Path, candidate: Path) -> list[str] | None:
    """Where fused regions end, if ``candidate`` is what fuse made of ``reference``; else None."""
    try:
        artifact = read_sidecar(candidate, FusedOnnxArtifact)
        ours = artifact.source.sha256 == sha256_file(reference)
        return [str(region["end"]) for region in artifact.fused] if ours else None
    except (UserError, OSError, KeyError, TypeError):
        return None  # another tool's work: only the outputs are known to be the same
