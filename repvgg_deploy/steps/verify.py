"""verify: the proof of equivalence, for any two of checkpoint, fused weights, ONNX and engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..artifacts import FusedArtifact, FusedOnnxArtifact
from ..checkpoint.hub import fetch, parse_hub
from ..data.samples import load_samples
from ..engine.engine_file import is_engine
from ..engine.load import CheckedEngine, read_engine
from ..equivalence.blocks import prove_blocks
from ..equivalence.compare import Comparison, compare
from ..equivalence.graph import GraphProof, prove_graphs
from ..equivalence.graph_inputs import read_inputs
from ..equivalence.proof import Proof, prove_fusion
from ..equivalence.samples import probe_inputs
from ..errors import UserError
from ..files import is_onnx, sha256_file
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_info import OnnxInfo, read_onnx_info
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math, pick_device
from ..sidecar import read_sidecar
from .fuse import refuse_images
from .inventory import training_only
from .verify_engine import compare_engine
from .weights import BY_ITSELF, TORCH_DTYPE, Reading, WeightsFile, proof_samples, read_weights

Subject = WeightsFile | OnnxInfo | CheckedEngine


@dataclass(frozen=True)
class Verdict:
    """The judgement on one pair; ``proof`` where both are weights, block by block.

    ``end_to_end`` is None for weights whose network is not known; ``changed`` then names tensors
    outside the blocks that are not the same to the bit. For two ONNX models it is the worst
    output of ``graphs`` (None: no float output).
    """

    reference: Path
    candidate: Path
    end_to_end: Comparison | None
    proof: Proof | None
    device: str
    changed: tuple[str, ...] = ()
    graphs: GraphProof | None = None

    @property
    def failures(self) -> list[str]:
        if self.graphs is not None:
            return self.graphs.failures
        lines = [] if self.proof is None else list(self.proof.failures)
        end = self.end_to_end
        if self.proof is None and end is not None and not end.passed:
            lines.append(f"end to end: {end.reason}")
        return lines + [f"{key}: is not what the reference holds" for key in self.changed]


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
) -> Verdict:
    """Judge a pair; the one nearer to training is the reference, whichever is named first.

    Of two ONNX models the first is the reference. ``reading`` says how checkpoints are read; a
    moving average, if asked for, is taken from each that has one, which fused weights do not.

    Raises:
        UserError: a file that cannot be used, or networks that cannot be compared.
    """
    if is_onnx(first) and is_onnx(second):
        return _verify_graphs(first, second, images)
    lenient = average_where_held(reading)
    subjects = (open_subject(first, lenient), open_subject(second, lenient))
    if reading.ema and not any(map(_is_average, subjects)):
        raise UserError(
            f"{first}: holds no moving average, and neither does {second}; leave out --ema."
        )
    reference, candidate = sorted(subjects, key=_distance_from_training)
    target = pick_device(device)
    if isinstance(candidate, CheckedEngine):  # sorted: an engine comes last
        if isinstance(reference, CheckedEngine):
            raise UserError(
                f"{first}: is an engine, as is {second}; hold each against what it was built from."
            )
        end_to_end = compare_engine(reference, candidate, target, images)
        return Verdict(reference.path, candidate.path, end_to_end, None, str(target))
    if isinstance(reference, WeightsFile) and isinstance(candidate, WeightsFile):
        if reference.whole is None or candidate.whole is None:
            if images is not None:
                refuse_images((reference if reference.whole is None else candidate).path)
            return _verify_blocks(reference, candidate, target)
        return _verify_networks(reference, candidate, target, images)
    assert isinstance(reference, WeightsFile)
    assert isinstance(candidate, OnnxInfo)
    return _verify_onnx(reference, candidate, target, images)


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
        raise UserError(
            f"{candidate.path}: is of another architecture than {reference.path}; name two forms "
            "of one network."
        )
    samples = proof_samples(first.spec, images)
    proof = prove_fusion(first.build(), second.build(), samples, device)
    return Verdict(reference.path, candidate.path, proof.end_to_end, proof, str(device))


def _verify_blocks(reference: WeightsFile, candidate: WeightsFile, device: torch.device) -> Verdict:
    """Blocks against their branches, and every other tensor to the bit."""
    before, after = reference.checkpoint.state, candidate.checkpoint.state
    fused = {key for block in reference.blocks for key in block.fused_keys}
    if not fused:
        raise UserError(
            f"{reference.path}: holds no block in training form, so there is nothing to prove; "
            "name the training checkpoint."
        )
    if missing := sorted(fused - set(after)):
        raise UserError(
            f"{candidate.path}: {missing[0]} is missing, so it is not {reference.path} in its "
            "deploy form; name two forms of one network."
        )
    folded = {key for block in reference.blocks for key in block.keys(before)}
    dropped = set(training_only(reference))
    changed = []
    for key in sorted((set(before) | set(after)) - folded - fused):
        same = key in before and key in after and _equal(before[key], after[key])
        if not same and not (key in dropped and key not in after):
            changed.append(key)
    proof = prove_blocks(before, after, reference.blocks, device, reference.reading.eps)
    return Verdict(reference.path, candidate.path, None, proof, str(device), tuple(changed))


def _equal(first: Tensor, second: Tensor) -> bool:
    """Equal in numbers, or to the bit, as NaN is to itself."""
    bits = (tensor.flatten().contiguous().view(torch.uint8) for tensor in (first, second))
    return torch.equal(first, second) or (first.dtype == second.dtype and torch.equal(*bits))


def _verify_onnx(
    reference: WeightsFile, candidate: OnnxInfo, device: torch.device, images: Path | None
) -> Verdict:
    network = reference.network
    if network.spec.in_channels != candidate.channels:
        raise UserError(
            f"{candidate.path}: takes images of {candidate.channels} channels and "
            f"{reference.path} of {network.spec.in_channels}; these are two networks."
        )
    samples = _samples_for(candidate, images)
    precision = candidate.precision
    with exact_math():
        truth = run(TorchRunner(network.build(torch.float64), device), samples)
        own = run(TorchRunner(network.build(TORCH_DTYPE[precision]), device), samples)
    try:
        output = run(OrtRunner(_runnable(candidate)), samples, candidate.batch)
        end_to_end = compare("end to end", truth, own, output, precision)
    except UserError as error:
        raise _naming(candidate.path, error) from error
    return Verdict(reference.path, candidate.path, end_to_end, None, str(device))


def _runnable(model: OnnxInfo) -> Path | bytes:
    if model.precision != "bf16":
        return model.path
    wide: bytes = widened(load_model(model.path)).SerializeToString()
    return wide


def _naming(path: Path, error: UserError) -> UserError:
    """``error`` with the file it is about, unless it names that already."""
    return error if str(error).startswith(str(path)) else UserError(f"{path}: {error}")


def _verify_graphs(reference: Path, candidate: Path, inputs: Path | None) -> Verdict:
    """Two ONNX models of any inputs and outputs."""
    samples = None if inputs is None else read_inputs(inputs)
    proof = prove_graphs(reference, candidate, samples, _region_ends(reference, candidate))
    return Verdict(reference, candidate, proof.worst_output, None, "cpu", graphs=proof)


def _region_ends(reference: Path, candidate: Path) -> list[str]:
    """Where fused regions end, if ``candidate`` is what fuse made of ``reference``."""
    try:
        artifact = read_sidecar(candidate, FusedOnnxArtifact)
        ours = artifact.source.sha256 == sha256_file(reference)
        return [str(region["end"]) for region in artifact.fused] if ours else []
    except (UserError, OSError, KeyError, TypeError):
        return []  # another tool's work: only the outputs are known to be the same


def _samples_for(info: OnnxInfo, images: Path | None) -> NDArray[np.float32]:
    """Inputs of the model's own shape; for a fixed batch, a whole number of batches."""
    if images is None:
        count = 8 if info.batch is None else info.batch * -(-8 // info.batch)
        return probe_inputs(info.channels, info.height, info.width, count)
    samples = load_samples(images, info.channels)
    if samples.shape[2:] != (info.height, info.width):
        raise UserError(f"{images}: {info.path} takes images of {info.height}x{info.width} pixels.")
    usable = len(samples) - len(samples) % (info.batch or 1)
    if usable == 0:
        raise UserError(f"{images}: {info.path} takes {info.batch} images at once; give that many.")
    return samples[:usable]
