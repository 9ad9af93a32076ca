"""Checkpoint file -> state dict. Files are untrusted: nothing in one is ever run."""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..archives import too_large
from ..errors import UserError, is_out_of_memory
from ..file_kinds import what_it_is
from ..files import read_error, sha256_file
from .check import check_storage
from .declared import Damaged, Declared, Refused, Unusual
from .numpy_pickle import open_numpy_pickle
from .torch_file import open_legacy, open_zip
from .unwrap import EMA, RAW, unwrap

_REFUSED = (
    ", and loading it could run any code that the file brings along, so it is refused. Where you "
    "trust the file and have its code base, turn it into a state dict and give that:"
)
_CODE = f"""\
    ckpt = torch.load("model.pt", map_location="cpu", weights_only=False)
    names = {(*EMA, *RAW)}
    model = next(filter(None, map(ckpt.get, names))) if type(ckpt) is dict else ckpt
    torch.save(model.float().state_dict() if hasattr(model, "float") else model, "state_dict.pth")\
"""
_SCRIPT_CODE = """\
    model = torch.jit.load("model.pt", map_location="cpu")
    torch.save(model.state_dict(), "state_dict.pth")\
"""
Kind = Literal["torch", "torch before 1.6", "safetensors", "numpy pickle"]
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))
#: The magic number that opens torch.save's files of before the zip format, as pickles have it.
_LEGACY = (b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"L119547037146038801333356L\n.")
#: safetensors itself refuses a header beyond this.
_LONGEST_HEADER = 100_000_000
_OF_PADDLE = ("._mean", "._variance")
_COPY_AGAIN = "copy or download the checkpoint again."


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and where it came from.

    ``wrapper`` says how it was held in the file, e.g. ``state_dict, prefix module.``; with
    ``averaged`` it is a moving average. The file's hash is computed beside the work on its tensors
    and waited for when it is asked for.
    """

    path: Path
    wrapper: str
    state: dict[str, Tensor]
    digest: Future[str]
    kind: Kind
    averaged: bool

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hex."""
        return self.digest.result()


def load_checkpoint(path: Path, ema: bool | None = None) -> Checkpoint:
    """Read a ``.pth`` / ``.pt``, ``.safetensors`` or MegEngine checkpoint, whatever its name.

    Of a file of torch.save only the chosen state dict is read. ``ema`` as in :func:`unwrap`.

    Raises:
        UserError: missing, no regular file, empty, truncated, another kind of file, too large for
            the memory, holds code, has an unknown wrapper, a record whose checksum does not match,
            or a tensor that check_storage refuses.
    """
    kind = _sniff(path)
    pool = ThreadPoolExecutor(1)
    digest = pool.submit(sha256_file, path)
    pool.shutdown(wait=False)
    with _explained(path, kind), _READERS[kind](path) as content:
        if kind == "numpy pickle":
            _refuse_paddle(content, path)
        held, wrapper, averaged = unwrap(content, path, ema)
        state = {key: _read(key, value, path) for key, value in held.items()}
    check_storage(state, path)
    return Checkpoint(path, wrapper, state, digest, kind, averaged)


def _sniff(path: Path) -> Kind:
    """The kind of file, from its content."""
    try:
        mode = path.stat().st_mode  # to open a pipe would wait for whoever writes to it
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(
                f"{path}: is no regular file but a pipe, socket or device; copy what it holds to "
                "a file and give that."
            )
        with path.open("rb") as stream:
            head = stream.read(64)
        if not head:
            raise UserError(f"{path}: is empty; copy or download the checkpoint again.")
        kind = _by_content(path, head)
        found = None if kind else what_it_is(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of a training checkpoint.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; give a file inside it.") from error
    except OSError as error:
        raise read_error(path, error) from error
    if kind is None:
        unknown = (
            "is neither a PyTorch checkpoint nor a safetensors file; "
            "give a file that torch.save or safetensors wrote."
        )
        raise UserError(f"{path}: {found or unknown}")
    return kind


def _by_content(path: Path, head: bytes) -> Kind | None:
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _kind_of_zip(path)
    if any(magic in head for magic in _LEGACY):
        return "torch before 1.6"
    if head.startswith(_PICKLES):
        return "numpy pickle"
    header = int.from_bytes(head[:8], "little")
    return "safetensors" if head[8:9] == b"{" and header <= _LONGEST_HEADER else None


def _kind_of_zip(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # its end is missing
        raise UserError(
            f"{path}: is truncated or damaged (a zip archive without its directory); {_COPY_AGAIN}"
        ) from error
    if "constants.pkl" in names:
        raise UserError(
            f"{path}: is a TorchScript program (of torch.jit.save), which brings its code along, "
            "so it is refused. Where you trust the file, turn it into a state dict and give that:",
            _SCRIPT_CODE,
        )
    return "torch" if "data.pkl" in names else None


@contextmanager
def _explained(path: Path, kind: Kind) -> Iterator[None]:
    """Errors of reading a file as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Refused as error:
        if kind == "numpy pickle":
            raise UserError(
                f"{path}: is a pickle of more than numpy arrays ({error}), and loading it could "
                "run code from the file; save a state dict with torch.save or safetensors, and "
                "give that."
            ) from error
        holds = f"holds Python objects besides tensors ({error})"
        raise UserError(f"{path}: {holds}{_REFUSED}", _CODE) from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply; give a plain state dict.") from error
    except Exception as error:  # a damaged file makes readers stumble in many ways
        if is_out_of_memory(error):
            raise too_large(path) from error
        reason = _reason(error)
        raise UserError(f"{path}: is truncated or damaged{reason}; {_COPY_AGAIN}") from error


def _reason(error: Exception) -> str:
    """What is wrong, where the reader says so in words that a user understands."""
    if bad := re.match(r"Bad CRC-32 for file '(.*)'", str(error)):
        return f" (its record {bad[1]} does not match its checksum)"
    return f" ({error})" if isinstance(error, (Damaged, SafetensorError)) else ""


def _read(key: str, value: Tensor | Declared, path: Path) -> Tensor:
    try:
        return value.read() if isinstance(value, Declared) else value
    except Unusual as error:
        raise UserError(
            f"{path}: {key!r} is a sparse, quantized, complex, 8-bit or otherwise unusual "
            f"tensor ({error}); save plain float tensors."
        ) from error


def _refuse_paddle(content: Any, path: Path) -> None:
    """Its linear layers are transposed, and its batch norms named otherwise."""
    keys = [str(key) for key in content] if isinstance(content, Mapping) else []
    if any(key == "StructuredToParameterName@@" or key.endswith(_OF_PADDLE) for key in keys):
        raise UserError(
            f"{path}: is a PaddlePaddle checkpoint, which fuse does not read; export the training "
            "form of the model to ONNX (paddle2onnx) and fuse that."
        )


@contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Tensor]]:
    yield load_file(path)


_READERS: dict[Kind, Callable[[Path], AbstractContextManager[Any]]] = {
    "torch": open_zip,
    "torch before 1.6": open_legacy,
    "safetensors": _open_safetensors,
    "numpy pickle": open_numpy_pickle,
}
