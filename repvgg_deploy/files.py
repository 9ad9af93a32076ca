"""Files and folders on disk: hashed, locked, synced, and their errors in a sentence."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

if sys.platform != "win32":
    import fcntl

_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "it is larger than the system allows (see ulimit -f); choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.ENOTDIR: "a part of that path is a file; choose another folder",
    errno.EEXIST: "a file stands where a folder is needed; choose another folder",
}


def is_onnx(path: Path) -> bool:
    """ONNX models are told by their ending, which some systems write in capitals."""
    return path.suffix.lower() == ".onnx"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_error(path: Path, error: OSError) -> UserError:
    """``error`` as one sentence that names the file."""
    return UserError(f"{path}: cannot be read: {error.strerror}; check its permissions.")


def write_error(path: Path, error: OSError) -> UserError:
    """``error`` as one sentence that names the file."""
    cause = _CAUSES.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
    return UserError(f"{path}: cannot be written: {cause}.")


def check_place(path: Path) -> None:
    """A rename puts a file in the place of anything: of /dev/null too, where that is allowed.

    Raises:
        OSError: something other than a file is there.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder stands there")
    stream = path.is_symlink() and path.readlink().is_relative_to("/proc")  # /dev/stdout is such
    if stream or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "a device or a pipe stands there")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in ``folder``; nothing is locked where that is impossible."""
    lock = try_lock(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def try_lock(folder: Path, wait: bool = False) -> int | None:
    """Lock a folder until the descriptor is closed or the process ends.

    None: it is held by another process, or the system has no such locks (Windows, some network
    file systems).
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            return None
        raise
    return descriptor
