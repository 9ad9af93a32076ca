"""Checkpoint file -> state dict. Files are untrusted: nothing in one is ever run."""

from __future__ import annotations

import pickle
import re
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..files import read_error, sha256_file
from .check import check_storage
from .numpy_pickle import read_numpy_pickle
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
Kind = Literal["torch", "safetensors", "numpy pickle"]
_PICKLE_PROTOCOL_2 = b"\x80\x02"  # how torch.save started its files before the zip format
_NEWER_PROTOCOLS = (b"\x80\x03", b"\x80\x04", b"\x80\x05")


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
    """Read a ``.pth`` / ``.pt`` (``weights_only=True``), ``.safetensors`` or MegEngine checkpoint.

    The format is told from the content, not from the name. ``ema`` as in :func:`unwrap`.

    Raises:
        UserError: missing, no regular file, empty, truncated, not a checkpoint, holds code,
            has an unknown wrapper, or a tensor that check_storage refuses.
    """
    kind = _sniff(path)
    pool = ThreadPoolExecutor(1)
    digest = pool.submit(sha256_file, path)
    pool.shutdown(wait=False)
    content = _READERS[kind](path)
    state, wrapper, averaged = unwrap(content, path, ema)
    check_storage(state, path)
    return Checkpoint(path, wrapper, state, digest, kind, averaged)


def _sniff(path: Path) -> Kind:
    """The kind of file, from the first bytes."""
    try:
        mode = path.stat().st_mode  # to open a pipe would wait for whoever writes to it
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(
                f"{path}: is no regular file but a pipe, socket or device; copy what it holds to "
                "a file and give that."
            )
        with path.open("rb") as stream:
            head = stream.read(16)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of a training checkpoint.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; give a file inside it.") from error
    except OSError as error:
        raise read_error(path, error) from error
    if not head:
        raise UserError(f"{path}: is empty; copy or download the checkpoint again.")
    if head[:2] == b"PK" or head[:2] == _PICKLE_PROTOCOL_2:
        return "torch"
    if head[:2] in _NEWER_PROTOCOLS:
        return "numpy pickle"
    if head[8:9] == b"{":
        return "safetensors"
    raise UserError(
        f"{path}: is neither a PyTorch checkpoint nor a safetensors file; "
        "give a file that torch.save or safetensors wrote."
    )


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch's reader stumble in many ways
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch names it in its message
        if isinstance(error, pickle.UnpicklingError) and refused:
            holds = f"holds Python objects besides tensors ({refused[1].rstrip('.')})"
            raise UserError(f"{path}: {holds}{_REFUSED}", _CODE) from error
        raise UserError(
            f"{path}: is truncated or damaged; copy or download the checkpoint again."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path}: is truncated or damaged ({error}); copy or download the checkpoint again."
        ) from error


_READERS: dict[Kind, Callable[[Path], Any]] = {
    "torch": _read_torch,
    "safetensors": _read_safetensors,
    "numpy pickle": read_numpy_pickle,
}
