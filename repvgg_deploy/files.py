"""Files on disk: hashed in blocks, and written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
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


def make_folder(path: Path) -> Path:
    """Create a folder and its parents; UserError where that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make the folder for what the block writes; if it was not there and the block fails, it goes.

    Raises:
        UserError: it cannot be made.
    """
    existed = path.exists()
    try:
        make_folder(path)
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # not empty: something else was written there meanwhile
                path.rmdir()
        raise


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, gone after the block.

    Raises:
        UserError: it cannot be made.
    """
    make_folder(path.parent)
    folder = _beside(path)
    try:
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise write_error(path, error) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it to ``path``.

    On any failure, Ctrl-C included, the temporary file goes and what stood at ``path`` stays.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    with whole_files([path]) as temporaries:
        yield temporaries[0]


@contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """As whole_file for several: none is renamed before all are written, nor with a folder, a
    device or a pipe in the way of one.

    Should the system refuse a rename even so, those before it stand. Errors in the block are laid
    to the first.
    """
    temporaries: list[Path] = []
    at = paths[0]
    try:
        for at in paths:
            _check_place(at)
            make_folder(at.parent)
            temporaries.append(_beside(at))
            temporaries[-1].touch(mode=0o600, exist_ok=False)
        at = paths[0]
        yield temporaries
        for at, temporary in zip(paths, temporaries, strict=True):
            _check_place(at)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
        for at, temporary in zip(paths, temporaries, strict=True):
            temporary.replace(at)
    except OSError as error:
        raise write_error(at, error) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """As whole_file for a new folder of files: yield a temporary one beside ``path``.

    Raises:
        UserError: as whole_file, or something stands at ``path``.
    """
    make_folder(path.parent)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.chmod(0o666 & ~_umask())
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_place(path: Path) -> None:
    """A rename puts a file in the place of anything: of /dev/null too, where that is allowed."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder stands there")
    stream = path.is_symlink() and path.readlink().is_relative_to("/proc")  # /dev/stdout is such
    if stream or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "a device or a pipe stands there")


def _beside(path: Path) -> Path:
    """A new name beside ``path``. It is known before anything is made under it, so that a signal
    at no moment leaves that behind."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def _umask() -> int:
    """The process's umask, which a temporary file's private mode would otherwise override."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
