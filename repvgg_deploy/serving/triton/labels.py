"""Class names: from a file, or of the bundled network, whose classes are known."""

from __future__ import annotations

from pathlib import Path

from ...artifacts import FusedArtifact
from ...data.demo import demo_checkpoint
from ...data.fashion_mnist import CLASSES
from ...errors import UserError
from ...files import read_error, sha256_file


def known_labels(fused: FusedArtifact) -> list[str] | None:
    """The class names of the bundled checkpoint, which a model is told to come from by its hash."""
    return list(CLASSES) if fused.source.sha256 == sha256_file(demo_checkpoint()) else None


def read_labels(path: Path) -> list[str]:
    """One class name a line, in the order of the classes; UTF-8.

    Raises:
        UserError: no such file, no text, or an empty line, after which names would be shifted.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: is no file; give one class name a line.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give one class name a line.") from error
    except OSError as error:
        raise read_error(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text; give one class name a line.") from error
    labels = text.removesuffix("\n").split("\n")
    for number, label in enumerate(labels, 1):
        if not label.strip():
            raise UserError(f"{path}: line {number} is empty; give one class name a line.")
    return labels


def check_labels(path: Path, labels: list[str], artifact: Path, classes: int | None) -> None:
    """Refuse names that are not one for each class.

    Raises:
        UserError: another count, or an output that has no classes to name.
    """
    if classes is None:
        raise UserError(
            f"{artifact}: labels are for one output [N, classes] of a dynamic batch or of 1; "
            "leave --labels out, or choose with --artifact."
        )
    if classes != len(labels):
        raise UserError(
            f"{path}: holds {len(labels)} names, but {artifact.name} has {classes} classes; give "
            "one name for each."
        )
