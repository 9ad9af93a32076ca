"""bench: where its record goes, looked at before minutes of measuring."""

from __future__ import annotations

from pathlib import Path

from ..bench.read import read_bench
from ..errors import UserError
from ..transaction import check_writable


def check_output(path: Path, ours: bool) -> None:
    """``ours``: it lies in the workspace, where a damaged record is replaced as any other.

    Raises:
        UserError: it cannot be written, or what stands there is no record of bench.
    """
    if path.exists() and not ours:
        try:
            read_bench(path)
        except UserError as error:
            raise UserError(
                f"{path}: stands there and is no record of bench; name another --output."
            ) from error
    check_writable(path)
