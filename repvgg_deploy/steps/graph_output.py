"""The places that a fused ONNX graph takes: what may stand there, and its data files."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from ..artifacts import FusedOnnxArtifact
from ..errors import UserError
from ..files import is_onnx, sha256_file
from ..sidecar import load_sidecar, read_sidecar, sidecar_path
from ..transaction import Transaction


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


def prepare_data(
    change: Transaction, data: Sequence[Path], output: Path, used: Collection[Path]
) -> None:
    """Put data files beside ``output`` with the change that puts the model there.

    ``data`` are the new model's, already at their temporary paths; their names tell their content,
    so none takes the place of another. Those that only the model which is at ``output`` now has
    ``used`` are removed.

    Raises:
        UserError: another file is at one of the places.
    """
    targets = [output.with_name(file.name) for file in data]
    for file, target in zip(data, targets, strict=True):
        if not target.exists():
            change.place(target)
        elif not target.is_file() or sha256_file(target) != sha256_file(file):
            raise UserError(f"{target}: is in the way, with other content; remove it.")
    kept = {file.resolve() for file in (*used, *targets)}
    for file in _earlier_data(output):
        if file.resolve() not in kept:
            change.remove(file)


def _earlier_data(output: Path) -> list[Path]:
    """Data files that we made for the model which stands at ``output`` now."""
    try:
        artifact = read_sidecar(output, FusedOnnxArtifact)
    except UserError:
        return []
    ours = re.compile(re.escape(output.stem) + r"\.[0-9a-f]{12}\.data")
    return [output.with_name(name) for name in artifact.data if ours.fullmatch(name)]
