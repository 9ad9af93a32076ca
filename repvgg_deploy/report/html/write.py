"""The three files of a report, side by side: all of them or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...rebuild import read_json
from ...sidecar import to_json
from ...transaction import transaction
from .page import html, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...steps.lineage.record import Report


def report_files(output: Path) -> list[Path]:
    """HTML, markdown and JSON of one name.

    Raises:
        UserError: the name is no HTML file's, or something else stands at one of them.
    """
    if output.suffix.lower() != ".html":
        raise UserError(f"{output}: is no name of an HTML file; end it in .html.")
    files = [output, output.with_suffix(".md"), output.with_suffix(".json")]
    standing = [path for path in files if path.exists()]
    if standing and not _is_report(files[2]):
        raise UserError(
            f"{standing[0]}: stands there, and {files[2].name} beside it is no report of this "
            "tool; move it away or choose another name with --output."
        )
    return files


def _is_report(path: Path) -> bool:
    """Of whatever version; no sidecar and no benchmark has these."""
    try:
        return {"files", "proofs", "ranges", "commands"} <= read_json(path, dict[str, Any]).keys()
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def write_report(report: Report, files: Sequence[Path]) -> None:
    """To the places that :func:`report_files` gave.

    Raises:
        UserError: the extra ``report`` is missing, or the files cannot be written.
    """
    name = files[2].name
    texts = (html(report, name), markdown(report, name), to_json(report) + "\n")
    with transaction(files[0].parent) as change:
        for path, text in zip(files, texts, strict=True):
            change.place(path).write_text(text, encoding="utf-8")
