"""inspect ENGINE: what an engine is, and whether it loads on this machine; it is not loaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifacts import EngineArtifact
from ..engine.compatible import Machine, Verdict, contradiction, judge, judge_plan, this_machine
from ..engine.engine_file import EngineFile, read_engine_file
from ..errors import UserError
from ..files import sha256_file
from ..sidecar import read_sidecar, sidecar_path
from ..transaction import whole_file


@dataclass(frozen=True)
class EngineInspection:
    """``sha256`` is of the whole file; ``sidecar`` is None where the engine has none."""

    file: EngineFile
    sha256: str
    sidecar: EngineArtifact | None
    machine: Machine
    verdict: Verdict


def inspect_engine(path: Path) -> EngineInspection:
    """Read an engine's headers and its sidecar, and compare them with this machine.

    Raises:
        UserError: no engine, one that is cut off, or a sidecar that is damaged, not the engine's or
            in contradiction to it.
    """
    file = read_engine_file(path)
    machine = this_machine(file.plan.flavour)
    if not sidecar_path(path).exists():
        verdict = judge_plan(file.plan, machine)
        return EngineInspection(file, sha256_file(path), None, machine, _as_it_is(file, verdict))
    sidecar = read_sidecar(path, EngineArtifact)
    if differs := contradiction(file.plan, sidecar):
        raise UserError(f"{sidecar_path(path)}: {differs}; run the step that makes it again.")
    verdict = judge(sidecar, machine)
    return EngineInspection(file, sidecar.sha256, sidecar, machine, _as_it_is(file, verdict))


def _as_it_is(file: EngineFile, verdict: Verdict) -> Verdict:
    """TensorRT takes no file that begins with another tool's header, whatever the engine is."""
    if file.metadata is None:
        return verdict
    header = f"a header of {file.start:,} bytes stands before the engine, which TensorRT refuses"
    return replace(
        verdict,
        loads=False,
        sentence=f"does not load as it is: {header}; without it: {verdict.sentence}",
        differences=[header, *verdict.differences],
        notes=[*verdict.notes, "inspect --strip writes the engine without its header"],
    )


def plain_path(path: Path) -> Path:
    """``model.plain.engine`` beside ``model.engine``."""
    return path.with_name(f"{path.stem}.plain{path.suffix}")


def strip_engine(path: Path, output: Path) -> None:
    """Write the engine at ``path`` to ``output`` without the private header before it.

    Raises:
        UserError: it has none, or another file stands at ``output``; nothing is written.
    """
    file = read_engine_file(path)
    if file.metadata is None:
        raise UserError(f"{path}: has no header to strip; it is a plain engine already.")
    with whole_file(output) as temporary:
        with path.open("rb") as source, temporary.open("wb") as target:
            source.seek(file.start)
            shutil.copyfileobj(source, target, 1 << 20)
        if output.is_file() and sha256_file(output) != sha256_file(temporary):
            raise UserError(
                f"{output}: another file stands there; name a place with --output, or remove it."
            )
