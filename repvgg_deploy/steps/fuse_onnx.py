"""fuse, for ONNX: linear regions of any graph become single convolutions, and it is proved."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import onnx

from ..artifacts import FusedOnnxArtifact, Source, store
from ..equivalence.graph import GraphProof, prove_graphs
from ..equivalence.graph_inputs import read_inputs
from ..errors import CheckFailed, UserError
from ..files import make_folder, sha256_file, whole_file, write_error
from ..reparam.graph.files import external_tensors, read_model, write_model
from ..reparam.graph.model import OnnxModel
from ..reparam.graph.plan import make_plan
from ..reparam.graph.result import FusedRegion, LeftRegion
from ..reparam.graph.rewrite import carry_out


@dataclass(frozen=True)
class OnnxInspection:
    """What would be fused; parameters are numbers in the main graph's weights."""

    path: Path
    fused: tuple[FusedRegion, ...]
    left: tuple[LeftRegion, ...]
    parameters: int
    parameters_after: int


@dataclass(frozen=True)
class OnnxFusion:
    """``artifact`` is None and ``files`` empty where there was nothing to fuse: nothing is written.

    ``proof`` is None where it was not asked for.
    """

    source: Path
    files: tuple[Path, ...]
    artifact: FusedOnnxArtifact | None
    fused: tuple[FusedRegion, ...]
    left: tuple[LeftRegion, ...]
    proof: GraphProof | None


def inspect_onnx(path: Path, *, allow_costlier: bool = False) -> OnnxInspection:
    """Plan only: no kernel is read and nothing is written. UserError: the file cannot be used."""
    model = read_model(path)
    plan = make_plan(model, allow_costlier)
    fused = tuple(plan.describe(region) for region in plan.regions)
    before = sum(prod(tensor.dims) for tensor in model.weights.values())
    saved = sum(region.weights_before - region.weights_after for region in fused)
    return OnnxInspection(path, fused, plan.left, before, before - saved)


def fuse_onnx(
    path: Path,
    output: Path,
    *,
    allow_costlier: bool = False,
    prove: bool = True,
    inputs: Path | None = None,
) -> OnnxFusion:
    """Fuse ``path`` into ``output`` (its sidecar beside it), proved before it appears.

    ``inputs`` is an .npz file for the proof, arrays named as the model's inputs; None: noise.
    Large weights go to ``<output>.data`` where those of ``path`` were in such a file.

    Raises:
        UserError: the model or the inputs cannot be used, or ``output`` cannot be written.
        CheckFailed: the fused model is not faithful; nothing is written.
    """
    if output.resolve() == path.resolve():
        raise UserError(f"{output}: is the model to fuse; choose another output.")
    samples = None if inputs is None else read_inputs(inputs)
    model = read_model(path)
    external = bool(external_tensors(model))
    fused, left = carry_out(make_plan(model, allow_costlier))
    if not fused:
        return OnnxFusion(path, (), None, (), left, None)
    make_folder(output.parent)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        staged = _write(model, Path(folder) / output.name, external)
        del model  # the proof needs the memory
        _check(staged[0])
        proof = prove_graphs(path, staged[0], samples) if prove else None
        if proof is not None and not proof.passed:
            raise CheckFailed(
                f"{path}: the fused model is not faithful, so it was not written: "
                f"{proof.failures[0]}."
            )
        artifact = _store(staged, output, path, fused, left, proof)
    files = (output, *(output.with_name(file.name) for file in staged[1:]))
    return OnnxFusion(path, files, artifact, fused, left, proof)


def _write(model: OnnxModel, path: Path, external: bool) -> list[Path]:
    try:
        return write_model(model, path, external)
    except OSError as error:
        raise write_error(path, error) from error


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"{path.name}: the model does not pass ONNX's own checker: {error}"
        ) from error


def _store(
    staged: Sequence[Path],
    output: Path,
    source: Path,
    fused: tuple[FusedRegion, ...],
    left: tuple[LeftRegion, ...],
    proof: GraphProof | None,
) -> FusedOnnxArtifact:
    """Move the files of a proved model into place, data first."""
    model, *data = staged
    for file in data:
        with whole_file(output.with_name(file.name)) as temporary:
            file.replace(temporary)
    return store(
        output,
        model.replace,
        lambda digest: FusedOnnxArtifact(
            file=output.name,
            sha256=digest,
            source=Source(str(source.absolute()), sha256_file(source)),
            data=[file.name for file in data],
            fused=[asdict(region) for region in fused],
            left=[asdict(region) for region in left],
            proof=None if proof is None else proof.to_dict(),
        ),
    )
