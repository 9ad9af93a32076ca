"""verify of a whole folder: every hash, every arrow from the checkpoint on, every proof again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..artifacts import (
    EngineArtifact,
    FusedArtifact,
    FusedOnnxArtifact,
    OnnxArtifact,
    QuantizedArtifact,
    Source,
)
from ..checkpoint.hub import fetch, parse_hub
from ..engine.engine_file import is_named_engine
from ..errors import CheckFailed, UserError
from ..files import is_onnx, sha256_file
from ..sidecar import lineage, load_sidecar, read_sidecar, sidecar_path
from ..workspace import ModelFolder
from .chain_contents import Artifact, changed_data, contradiction, detail_of
from .chain_proofs import Again, Result, held_to_truth, prove_again, stored_proof


@dataclass(frozen=True)
class Check:
    """One check of one file. ``passed`` None: it cannot be made here, and ``detail`` says why.
    A check that passed may have one too: what it left out.

    ``kind`` is hash, lineage (what it was made from is still that), stored proof, proof, or truth
    (it gives the recorded outputs).
    """

    file: str
    kind: str
    passed: bool | None
    detail: str = ""


@dataclass
class Chain:
    """Every check of a folder, file by file."""

    folder: Path
    checks: list[Check] = field(default_factory=list)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def unchecked(self) -> list[Check]:
        return [check for check in self.checks if check.passed is None]

    @property
    def noted(self) -> list[Check]:
        return [check for check in self.checks if check.passed and check.detail]


def check_chain(folder: ModelFolder, again: Again) -> Chain:
    """Check all that the folder holds; ``again`` says how proofs are run once more.

    Raises:
        UserError: there is no such folder, or nothing in it that this tool made, or a proof cannot
            be run with that device or those images.
    """
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder; name one under engines/.")
    files = folder_files(folder)
    if not files:
        raise UserError(
            f"{folder.path}: holds nothing that this tool made; name a model's folder, such as "
            "engines/ckpt."
        )
    chain = Chain(folder.path)
    for path in files:
        chain.checks += _check_file(path, again)
    if again.refused and not chain.failures:
        raise again.refused[0]
    if all(check.passed is None for check in chain.checks):
        raise UserError(
            f"{folder.path}: none of its files has a sidecar, so nothing can be checked; run the "
            "steps that make them again."
        )
    return chain


def folder_files(folder: ModelFolder) -> list[Path]:
    """Artifacts in the order of the pipeline, also those of which only the sidecar is left."""
    left = {path.with_suffix("") for path in folder.path.glob("*.json")} - {
        folder.bench.with_suffix("")
    }
    stages: tuple[Callable[[Path], bool], ...] = (
        lambda path: path == folder.fused,
        lambda path: path in (folder.fused_pth, folder.fused_pkl),
        is_onnx,
        is_named_engine,
    )
    found = sorted(left | {path for path in folder.path.iterdir() if path.is_file()})
    return [path for stage in stages for path in found if stage(path)]


def _check_file(path: Path, again: Again) -> list[Check]:
    def check(kind: str, passed: bool | None, detail: str = "") -> Check:
        return Check(path.name, kind, passed, detail)

    if not sidecar_path(path).exists():
        return [check("hash", None, "it has no sidecar, so nothing is known of it")]
    try:
        artifact = read_artifact(path)
        differs = contradiction(path, artifact)
    except UserError as error:
        return [check("hash", False, detail_of(error, path))]
    if differs:
        return [check("hash", False, differs)]
    found = [check("hash", True)]
    source, problem = find_source(path, artifact.source)
    unknown = "" if source is not None else f"{artifact.source.path} is not here"
    if isinstance(artifact, EngineArtifact) and source is not None and not problem:
        problem, unknown = _compare_lineage(artifact.lineage, source)
        problem = problem or changed_data(source.parent, artifact.data)
    passed = False if problem else None if unknown else True
    found.append(check("lineage", passed, problem or unknown))
    found.append(check("stored proof", *stored_proof(artifact)))
    if again.truth is not None:
        found.append(check("truth", *held_to_truth(path, artifact, again)))
    if problem:
        return [*found, check("proof", None, "not run, since what it was made from has changed")]
    return [*found, check("proof", *_prove(path, artifact, source, again))]


def _prove(path: Path, artifact: Artifact, source: Path | None, again: Again) -> Result:
    """A proof that cannot be run hides no check of another file that failed."""
    try:
        return prove_again(path, artifact, source, again)
    except CheckFailed as error:
        return False, detail_of(error, path)
    except UserError as error:
        again.refused.append(error)
        return None, detail_of(error, path)


def read_artifact(path: Path) -> Artifact:
    if is_named_engine(path):
        return read_sidecar(path, EngineArtifact)
    if not is_onnx(path):
        return read_sidecar(path, FusedArtifact)
    if _records(path, "fused"):
        return read_sidecar(path, FusedOnnxArtifact)
    if _records(path, "calibration"):
        return read_sidecar(path, QuantizedArtifact)
    return read_sidecar(path, OnnxArtifact)


def _records(path: Path, key: str) -> bool:
    """Fused graphs, int8 models and exported networks are told by their records alone."""
    try:
        return key in load_sidecar(path)
    except (OSError, ValueError, TypeError, RecursionError):
        return False  # read_sidecar says what is wrong with it


def find_source(path: Path, source: Source) -> tuple[Path | None, str]:
    """What ``path`` was made from, None where that is not here; and what is wrong with it."""
    found = path.parent / source.path
    try:
        if (on_hub := parse_hub(source.path)) is not None:
            found = fetch(on_hub).path
    except UserError:
        return None, ""
    if not found.is_file():  # nor is a device or a pipe
        return None, ""
    if sha256_file(found) != source.sha256:
        return found, f"{source.path} has changed since {path.name} was made from it"
    return found, ""


def _compare_lineage(recorded: list[dict[str, str]], source: Path) -> tuple[str, str]:
    """What is wrong with the lineage after ``source``, and what of it cannot be told here."""
    now = [{"path": step.path, "sha256": step.sha256} for step in lineage(source)]
    last = now[-1]["path"] if now else source.name
    if len(now) < len(recorded) and now == recorded[: len(now)] and Path(last).name == last:
        return "", f"no sidecar here says what {last} was made from"
    if now != recorded:
        return "the files it was made from are not those of its lineage any more", ""
    return "", ""
