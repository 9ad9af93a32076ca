"""The places that a fused ONNX graph takes: what may stand there, and its data files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..artifacts import FusedOnnxArtifact
from ..errors import UserError
from ..files import is_onnx, sha256_file, whole_file
from ..sidecar import load_sidecar, read_sidecar, sidecar_path


def check_output(source: Path, used: Collection[Path], output: Path) -> None:
    """UserError unless ``output`` names a new model; ``used`` are the data files of ``source``."""
    if not is_onnx(output):
        raise UserError(f"{output}: is no name for an ONNX model; give one that ends in .onnx.")
    taken = {file.resolve() for file in (source, *used)}
    for path in (output, sidecar_path(output)):
        if path.resolve() in taken:
            raise UserError(f"{path}: is the model to fuse or its data; choose another output.")
        if path.is_dir():
            raise UserError(f"{path}: is a folder; choose another output.")
    if output.exists() and not _is_ours(output):
        raise UserError(
            f"{output}: exists and was not made by fuse; choose another --output or remove it."
        )


def _is_ours(output: Path) -> bool:
    """Whether a sidecar says that a fused graph stood here, even one that changed since."""
    try:
        record = load_sidecar(output)
        return bool(record["file"] == output.name and {"fused", "left"} <= record.keys())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


@contextmanager
def data_in_place(staged: Sequence[Path], output: Path, used: Collection[Path]) -> Iterator[None]:
    """Move data files beside ``output`` for as long as the body puts the model there.

    ``staged`` is the new model and its data files, whose names tell their content, so none takes
    the place of another. If the body fails they go; if not, those go that only the model which
    stood at ``output`` before has ``used``.
    """
    model, *data = staged
    digest, earlier = sha256_file(model), _earlier_data(output)
    moved: list[Path] = []
    try:
        for file in data:
            target = output.with_name(file.name)
            if not target.exists():
                moved.append(target)
                with whole_file(target) as temporary:
                    file.replace(temporary)
            elif not target.is_file() or sha256_file(target) != sha256_file(file):
                raise UserError(f"{target}: is in the way, with other content; remove it.")
        yield
    except BaseException:
        if not output.is_file() or sha256_file(output) != digest:
            for target in moved:
                target.unlink(missing_ok=True)
        raise
    kept = {file.resolve() for file in used} | {output.with_name(f.name).resolve() for f in data}
    for file in earlier:
        if file.resolve() not in kept:
            with suppress(OSError):
                file.unlink()


def _earlier_data(output: Path) -> list[Path]:
    """Data files that we made for the model which stands at ``output`` now."""
    try:
        artifact = read_sidecar(output, FusedOnnxArtifact)
    except UserError:
        return []
    ours = re.compile(re.escape(output.stem) + r"\.[0-9a-f]{12}\.data")
    return [output.with_name(name) for name in artifact.data if ours.fullmatch(name)]
