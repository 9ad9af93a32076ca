"""The folder of one Triton model: ``config.pbtxt``, labels, and a folder for each version.

Triton ignores folders here whose names are no numbers, so that half a version is never served.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError
from ...files import read_error, sha256_file
from ...transaction import transaction
from .servable import Servable

CONFIG_FILE = "config.pbtxt"
#: First line of our configurations, before the hash of what follows it.
_MARK = "# Written by repvgg-deploy serve, sha256 of the lines below: "


def sign(text: str) -> str:
    """The text under a comment that tells it from one that was written or edited by hand."""
    return f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def check_ours(folder: Path) -> None:
    """Refuse to change a model that was not written by serve, or that was edited since.

    Raises:
        UserError: see above.
    """
    config = folder / CONFIG_FILE
    try:
        if not folder.exists():
            return
        names = [path.name for path in folder.iterdir() if not path.name.endswith(".part")]
        text = config.read_text(encoding="utf-8") if config.is_file() else ""
    except NotADirectoryError as error:
        raise UserError(
            f"{folder}: a file stands there; move it away, or choose another folder."
        ) from error
    except OSError as error:
        raise read_error(folder, error) from error
    except UnicodeDecodeError:
        text = ""
    if names and not text.startswith(_MARK):
        raise UserError(
            f"{folder}: holds a model that serve did not write; choose another folder, or another "
            "name with --name."
        )
    if names and text != sign(text.partition("\n")[2]):
        raise UserError(
            f"{config}: was edited since serve wrote it; move it away to have it written again, or "
            "choose another folder or --name."
        )


def _next_version(folder: Path, files: Mapping[str, Servable]) -> tuple[int, bool]:
    """The version to serve, and whether it has to be written: the newest where it holds these very
    files, else the one after it."""
    numbers = [p.name for p in folder.glob("*") if re.fullmatch(r"[1-9][0-9]{0,17}", p.name)]
    newest = max(map(int, numbers), default=0)
    if newest and _holds(folder / str(newest), files):
        return newest, False
    return newest + 1, True


def _holds(folder: Path, files: Mapping[str, Servable]) -> bool:
    try:
        if {path.name for path in folder.iterdir()} != set(files):
            return False
        return all(sha256_file(folder / name) == s.sha256 for name, s in files.items())
    except OSError as error:
        raise read_error(folder, error) from error


def write_model(
    folder: Path, files: Mapping[str, Servable], texts: Mapping[str, str]
) -> tuple[int, bool]:
    """Copy ``files`` into a version folder and write ``texts`` beside it; return the version, and
    whether it is new.

    Raises:
        UserError: an artifact changed meanwhile, or the folder cannot be written to.
    """
    version, changed = _next_version(folder, files)
    with transaction(folder) as change:
        if changed:
            staged = change.place(folder / str(version))
            staged.mkdir()
            for name, servable in files.items():
                _copy(servable, staged / name)
        for name, text in texts.items():
            change.place(folder / name).write_text(text, encoding="utf-8", newline="\n")
    return version, changed


def _copy(servable: Servable, target: Path) -> None:
    shutil.copyfile(servable.path, target)
    if sha256_file(target) != servable.sha256:
        raise UserError(f"{servable.path}: changed while it was copied; run the command again.")
