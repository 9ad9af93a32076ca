"""The record of a transaction's changes, by which the next run completes them (a redo log).

A transaction's hidden folder holds ``new/`` with the files to put in place, ``old/`` with those
that they replace, and, from the moment that the new state counts, ``commit.json``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import UserError
from .files import locked, sync, try_lock

#: The one file outside its own folder, in the parent, that a transaction may change.
POINTER = "current.json"

_STAGE = re.compile(r"\.repvgg-deploy\.[0-9a-f]{12}\.part")
RECORD = "commit.json"
_NOT_OURS = (ValueError, TypeError, KeyError, RecursionError)


def stage_path(folder: Path) -> Path:
    """A new name for a transaction's hidden folder in ``folder``."""
    return folder / f".repvgg-deploy.{secrets.token_hex(6)}.part"


def new_path(stage: Path, target: Path) -> Path:
    """Where the file is that becomes ``target``."""
    return stage / "new" / target.name


def recover(folder: Path) -> None:
    """Complete or discard the transactions in ``folder`` that killed runs left unfinished.

    Those of runs that are alive are waited for while they rename, else left alone.

    Raises:
        UserError: one has to be completed and cannot be, as in a folder that is read-only.
    """
    if not _stages(folder):
        return
    with locked(folder):
        for stage in _stages(folder):
            if (stage / RECORD).exists():
                _complete(stage)
            elif (lock := try_lock(stage)) is not None:
                shutil.rmtree(stage, ignore_errors=True)
                os.close(lock)


def recover_inside(root: Path) -> None:
    """:func:`recover` for each folder in ``root``; UserError as there."""
    with suppress(OSError):
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            recover(folder)


def _complete(stage: Path) -> None:
    try:
        record = Record.read(stage)
        if record.stage != stage.stat().st_ino:
            raise UserError(
                f"{stage}: is a copy of an unfinished change to another folder, so none of it is "
                "carried out; remove it, and run the step that makes the files there again."
            )
        carry_out(stage, record)
        (stage / RECORD).unlink()
    except (OSError, *_NOT_OURS) as error:
        cause = error.strerror if isinstance(error, OSError) else f"{RECORD} is damaged"
        raise UserError(
            f"{stage.parent}: a run was killed while it changed files there, and {stage.name} "
            f"cannot be completed ({cause}); make the folder writable and run the command again, "
            "or remove that and the files beside it."
        ) from error
    shutil.rmtree(stage, ignore_errors=True)


@dataclass(frozen=True)
class Record:
    """Names of files to put in place and to remove, relative to the transaction's folder.

    ``stage`` is the inode of the hidden folder that the record was written in: one that came with
    a download, or was copied, may not change the files that it is beside.
    """

    stage: int
    placed: list[str]
    removed: list[str]

    def write(self, stage: Path) -> None:
        temporary = stage / f"{RECORD}.tmp"
        temporary.write_text(json.dumps(asdict(self)))
        sync(temporary)
        for folder in (new_path(stage, stage).parent, stage, stage.parent):
            sync(folder)
        temporary.replace(stage / RECORD)
        sync(stage)

    @staticmethod
    def read(stage: Path) -> Record:
        """Raises one of _NOT_OURS for a record that is not ours, or of files elsewhere."""
        data = json.loads((stage / RECORD).read_text())
        record = Record(data["stage"], data["placed"], data["removed"])
        for name in (*record.placed, *record.removed):
            if name != f"../{POINTER}" and not re.fullmatch(r"(?!\.{1,2}$)[^/\\\0]+", name):
                raise ValueError(name)
        return record


def carry_out(stage: Path, record: Record) -> None:
    """Rename and remove; what was carried out already is skipped."""
    (stage / "old").mkdir(exist_ok=True)
    targets = [_target(stage, name) for name in record.placed]
    for target in targets:
        if os.path.lexists(new_path(stage, target)):
            _keep(stage, target)
            _move(new_path(stage, target), target)
    removed = [_target(stage, name) for name in record.removed]
    for target in removed:
        _keep(stage, target)
        target.unlink(missing_ok=True)
    for folder in {target.parent for target in (*targets, *removed)}:
        sync(folder)


def _keep(stage: Path, target: Path) -> None:
    """Keep what is at ``target`` in ``stage`` too: linked, else moved."""
    old = _old(stage, target)
    if not os.path.lexists(target) or os.path.lexists(old):
        return
    try:
        os.link(target, old, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links, or not our file
        _move(target, old)


def undo(stage: Path, record: Record) -> None:
    """Every file as it was. The new ones go back to ``stage``, where the record needs them."""
    for target in (_target(stage, name) for name in record.placed):
        if os.path.lexists(target) and not os.path.lexists(new_path(stage, target)):
            _move(target, new_path(stage, target))
    for target in (_target(stage, name) for name in (*record.placed, *record.removed)):
        old = _old(stage, target)
        if os.path.lexists(old) and not (os.path.lexists(target) and _same(old, target)):
            _move(old, target)


def _move(source: Path, target: Path) -> None:
    """Rename, or copy to another file system: current.json, where a model folder is a link."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        try:
            shutil.copyfile(source, temporary)
            sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        source.unlink()


def _same(one: Path, other: Path) -> bool:
    """Whether both are links to one file."""
    return os.path.samestat(one.lstat(), other.lstat())


def _target(stage: Path, name: str) -> Path:
    return stage.parent.parent / POINTER if name == f"../{POINTER}" else stage.parent / name


def _old(stage: Path, target: Path) -> Path:
    return stage / "old" / target.name


def _stages(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if _STAGE.fullmatch(name))
        trusted = {folder.stat().st_uid, *_user()}
        return [stage for stage in map(folder.joinpath, names) if _is_ours(stage, trusted)]
    except OSError:  # no such folder, or none that we could read
        return []


def _user() -> list[int]:
    return [] if sys.platform == "win32" else [os.geteuid()]


def _is_ours(stage: Path, trusted: set[int]) -> bool:
    """A real folder that this user may read, of this user or of the owner of the folder it is in.

    Where others may write (/tmp), a record of theirs could remove this user's files; a link could
    reach elsewhere.
    """
    with suppress(FileNotFoundError):  # its run ended meanwhile
        found = (stage.lstat(), *_inner(stage))
        ours = all(stat.S_ISDIR(one.st_mode) and one.st_uid in trusted for one in found)
        return ours and os.access(stage, os.R_OK | os.X_OK)
    return False


def _inner(stage: Path) -> list[os.stat_result]:
    return [(stage / name).lstat() for name in ("new", "old") if os.path.lexists(stage / name)]
