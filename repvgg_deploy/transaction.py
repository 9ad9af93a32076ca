"""Files that change together: all of them or none, whatever ends the run.

The new files are written into a hidden folder beside the old ones. Once they are on the disk, a
record of the changes is written there too, then each file is renamed into place. A run that is
killed before the record leaves the old files, and the next run discards what it wrote; one that is
killed after it is completed by the next run (a redo log, as databases have).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .files import check_place, locked, read_error, sync, try_lock, write_error
from .redo_log import POINTER, RECORD, Record, carry_out, new_path, recover, stage_path, undo
from .signals import uninterrupted

_log = logging.getLogger(__name__)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
#: To make a folder that another run removes at that very moment.
_ATTEMPTS = 10


@dataclass
class Transaction:
    """Changes to the files of ``folder``, and to ``current.json`` in its parent.

    Begun by :func:`transaction`. Nothing is on the disk before the first change is prepared.
    """

    folder: Path
    _stage: Path | None = None
    _lock: int | None = None
    _at: Path | None = None
    _placed: list[Path] = field(default_factory=list)
    _removed: list[Path] = field(default_factory=list)
    _made: list[Path] = field(default_factory=list)
    _before: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def place(self, path: Path) -> Path:
        """Where to write what becomes ``path``: a temporary path that ends in the same name.

        Raises:
            UserError: the folder cannot be written to, or something other than a file is at
                ``path``.
        """
        self._at = path
        try:
            check_place(path)
            stage = self._begin()
        except OSError as error:
            raise write_error(path, error) from error
        if path not in self._placed:
            self._placed.append(path)
        return new_path(stage, path)

    def remove(self, path: Path) -> None:
        """Remove a file of the folder, if it exists, with the other changes.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            self._begin()
        except OSError as error:
            raise write_error(path, error) from error
        self._removed.append(path)

    def _begin(self) -> Path:
        if self._stage is not None:
            return self._stage
        for _ in range(_ATTEMPTS):
            self._made += [f for f in (*self.folder.parents[::-1], self.folder) if not f.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(self.folder, error) from error
            # Named before it is made, so that a signal at no moment leaves it behind.
            self._stage = stage_path(self.folder)
            try:
                with locked(self.folder):  # recover never sees it without its lock
                    self._stage.mkdir(mode=0o700)
                    self._lock = try_lock(self._stage)
                    new_path(self._stage, self._stage).parent.mkdir()
            except FileNotFoundError:  # the run that had made the folder failed and removed it
                self._stage = None
            else:
                return self._stage
        raise FileNotFoundError(errno.ENOENT, "another run removes that folder again and again")

    def _commit(self) -> None:
        if self._stage is None:
            return
        for placed in self._placed:
            self._at = placed
            check_place(placed)
            new = new_path(self._stage, placed)
            for path in (*(new.iterdir() if new.is_dir() else ()), new):
                sync(path)
        names = ([self._name(p) for p in paths] for paths in (self._placed, self._removed))
        record = Record(self._stage.stat().st_ino, *names)
        with locked(self.folder):
            now = _states(self.folder)
            changed = [p for p in self._placed if now.get(p.name) != self._before.get(p.name)]
            with uninterrupted():
                try:
                    record.write(self._stage)
                    carry_out(self._stage, record)
                except BaseException:
                    undo(self._stage, record)  # should it fail, the next run completes the changes
                    (self._stage / RECORD).unlink(missing_ok=True)
                    raise
                with suppress(OSError):  # the new files count already; the next run tidies
                    (self._stage / RECORD).unlink()
        for path in changed[:1]:
            _log.warning("%s: another run wrote it meanwhile; its files were replaced", path)

    def _name(self, path: Path) -> str:
        assert path.parent == self.folder or path == self.folder.parent / POINTER, path
        return path.name if path.parent == self.folder else f"../{POINTER}"

    def _end(self, *, failed: bool) -> None:
        """Discard the temporary files, unless they are still needed to complete the changes."""
        with uninterrupted():
            if self._stage is not None and not (self._stage / RECORD).exists():
                shutil.rmtree(self._stage, ignore_errors=True)
            if self._lock is not None:
                os.close(self._lock)
            for folder in reversed(self._made if failed else []):
                with suppress(OSError):  # not empty: something else was written there meanwhile
                    folder.rmdir()

    def _explain(self, error: OSError) -> Exception:
        """``error`` as one sentence that names the file to be, never a temporary one; as it is
        where it is of a disk that is none of ours."""
        names = [Path(name) for name in (error.filename2, error.filename) if isinstance(name, str)]
        for name in names:
            if self._stage is not None and name.is_relative_to(self._stage):
                inside = name.relative_to(self._stage).parts[1:]
                return write_error(self.folder.joinpath(*inside), error)
        if not names:
            return write_error(self._at or self.folder, error)
        return error if error.errno in _NO_SPACE else read_error(names[-1], error)


@contextmanager
def transaction(folder: Path) -> Iterator[Transaction]:
    """Change files of ``folder`` together, at the end of the block.

    If the block or the change fails, or a signal ends it, every file is as it was before, and
    folders that were made for it go. Where another run changed the same files during the block,
    those are overwritten, and a warning is logged.

    Raises:
        UserError: the folder cannot be written to, or the disk is full; names the file to be.
    """
    recover(folder)
    change = Transaction(folder, _before=_states(folder))
    failed = True
    try:
        yield change
        change._commit()
        failed = False
    except OSError as error:
        raise change._explain(error) from error
    finally:
        change._end(failed=failed)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A transaction of one file: yields its temporary path.

    Raises:
        UserError: as transaction.
    """
    with transaction(path.parent) as change:
        yield change.place(path)


def check_writable(path: Path) -> None:
    """Find out whether a file can be written, before the work on it begins; nothing stays.

    Raises:
        UserError: it cannot.
    """
    change = Transaction(path.parent)
    try:
        change.place(path)
    finally:
        change._end(failed=True)


def _states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells each file of a folder from one that is written in its place."""
    found: dict[str, tuple[int, ...]] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                found[entry.name] = (state.st_ino, state.st_mtime_ns, state.st_size)
    return found
