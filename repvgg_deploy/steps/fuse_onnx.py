"""fuse, for ONNX: linear regions of any graph become single convolutions, and it is proved."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from ..artifacts import FusedOnnxArtifact, Source
from ..equivalence.graph import GraphProof, prove_graphs
from ..equivalence.graph_inputs import read_inputs
from ..equivalence.truth import TruthCheck
from ..equivalence.truth_file import Truth
from ..errors import CheckFailed, UserError
from ..files import sha256_file
from ..reparam.graph.check import check_no_nan
from ..reparam.graph.files import data_files, read_model, read_proto, write_model
from ..reparam.graph.model import OnnxModel
from ..reparam.graph.plan import make_plan
from ..reparam.graph.result import FusedRegion, LeftRegion
from ..reparam.graph.rewrite import carry_out
from ..runners.onnx_session import Arrays, OrtSession
from ..sidecar import prepare_sidecar
from ..transaction import transaction
from .graph_output import check_output, prepare_data
from .truth import hold_graph


@dataclass(frozen=True)
class OnnxFusion:
    """``fused`` is empty where there was nothing to fuse: then the file is the model as it came.

    ``proof`` is None where it was not asked for, or a copy needs none.
    """

    source: Path
    files: tuple[Path, ...]
    artifact: FusedOnnxArtifact
    fused: tuple[FusedRegion, ...]
    left: tuple[LeftRegion, ...]
    proof: GraphProof | None
    truth: TruthCheck | None


def fuse_onnx(
    path: Path,
    output: Path,
    *,
    allow_costlier: bool = False,
    prove: bool = True,
    inputs: Path | None = None,
    truth: Truth | None = None,
) -> OnnxFusion:
    """Fuse ``path`` into ``output`` (its sidecar beside it), proved before it appears.

    ``inputs`` is an .npz file for the proof, arrays named as the model's inputs; None: noise.
    ``truth`` are recorded inputs and outputs of the user's own model.
    Large weights go to a file beside ``output`` where those of ``path`` were in such a file. A
    model with nothing to fuse is copied, byte for byte unless its weights lie in other files.

    Raises:
        UserError: the model or the inputs cannot be used, or ``output`` cannot be written.
        CheckFailed: the fused model is not faithful, or does not give the recorded outputs; nothing
            is written.
    """
    samples = None if inputs is None else read_inputs(inputs)
    model = read_model(path)
    used = data_files(model)
    check_output(path, used, output)
    fused, left = carry_out(make_plan(model, allow_costlier))
    with transaction(output.parent) as change:
        copied = None if fused or used else path
        staged = change.place(output)
        files = _write(model, staged, bool(used), copied)
        del model  # the proof needs the memory
        ends = [region.end for region in fused]
        proof = None
        if copied:
            _check_copy(path)
        else:
            proof = _prove(path, staged, prove, samples, ends)
        held = None if truth is None else hold_graph(path, truth, file=staged)
        data = {file.name: sha256_file(file) for file in files[1:]}
        prepare_data(change, files[1:], output, used)
        artifact = FusedOnnxArtifact(
            file=output.name,
            sha256=sha256_file(staged),
            source=Source(str(path.resolve()), sha256_file(path)),
            data=data,
            fused=[asdict(region) for region in fused],
            left=[asdict(region) for region in left],
            proof=None if proof is None else proof.to_dict(),
            truth=None if held is None else held.to_dict(),
        )
        prepare_sidecar(change, output, artifact)
    written = (output, *map(output.with_name, data))
    return OnnxFusion(path, written, artifact, fused, left, proof, held)


def _write(model: OnnxModel, path: Path, external: bool, copied: Path | None) -> list[Path]:
    if copied is None:
        return write_model(model, path, external)
    shutil.copyfile(copied, path)
    return [path]


def _prove(
    source: Path, fused: Path, prove: bool, inputs: Arrays | None, ends: list[str]
) -> GraphProof | None:
    """The proof, and ONNX's checker, which refuses much that runs: then the proof has to do."""
    complaint = _complaint(source)
    if complaint is not None and not prove:
        raise UserError(
            f"{source}: does not pass ONNX's own checker ({complaint}); fuse it with the proof, "
            "which tells whether it runs all the same."
        )
    if complaint is None and (broken := _complaint(fused)) is not None:
        raise CheckFailed(
            f"{source}: the fused model does not pass ONNX's own checker, so it was not written: "
            f"{broken}."
        )
    proof = prove_graphs(source, fused, inputs, ends) if prove else None
    if proof is not None and not proof.passed:
        raise CheckFailed(
            f"{source}: the fused model is not faithful, so it was not written: "
            f"{proof.failures[0]}."
        )
    return proof


def _check_copy(source: Path) -> None:
    """A model in which nothing fuses is no result unless something takes it.

    Raises:
        UserError: neither ONNX's checker nor ONNX Runtime does, or a weight holds NaN.
    """
    check_no_nan(read_proto(source), source)
    if (complaint := _complaint(source)) is None:
        return
    try:
        OrtSession(source)
    except UserError as error:
        raise UserError(
            f"{source}: nothing in it fuses, and it is not a valid model ({complaint}); export it "
            "again."
        ) from error


def _complaint(path: Path) -> str | None:
    """The first line of what ONNX's checker has against a model."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0].rstrip(". ")
    return None
