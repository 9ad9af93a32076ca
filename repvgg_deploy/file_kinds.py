"""What a file is that a step cannot read, told from its content, and what to do about it."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

_HEAD = 4096
_ONNX_ELSEWHERE = "export the model to ONNX ({}) and fuse that"
_UNPACK = "unpack it and give the file inside"
#: First bytes, what they mean, and what to do.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves", _ONNX_ELSEWHERE.format("tf2onnx")),
    (b"\x1f\x8b", "compressed by gzip", "decompress it (gunzip) and give the result"),
    (b"BZh", "compressed by bzip2", "decompress it (bunzip2) and give the result"),
    (b"\xfd7zXZ\x00", "compressed by xz", "decompress it (unxz) and give the result"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it (unzstd) and give the result"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x93NUMPY", "a NumPy array (.npy), not a checkpoint or a model", "give one of these"),
    (b"GGUF", "a GGUF file of a language model", "give a vision network"),
    (b"\x08\x01\x12", "a TensorFlow SavedModel", _ONNX_ELSEWHERE.format("tf2onnx")),
)
#: Endings of formats whose first bytes say nothing.
_ENDINGS = {
    ".pdmodel": ("a PaddlePaddle program", _ONNX_ELSEWHERE.format("paddle2onnx")),
    ".pdiparams": ("the weights of a PaddlePaddle program", _ONNX_ELSEWHERE.format("paddle2onnx")),
    ".pb": ("a TensorFlow graph", _ONNX_ELSEWHERE.format("tf2onnx")),
    ".ckpt-index": ("a TensorFlow checkpoint", _ONNX_ELSEWHERE.format("tf2onnx")),
    ".index": ("a TensorFlow checkpoint", _ONNX_ELSEWHERE.format("tf2onnx")),
}
#: Fields of an ONNX model that may follow its IR version.
_ONNX_FIELDS = {2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2, 5 << 3, 6 << 3 | 2, 7 << 3 | 2, 8 << 3 | 2}


def what_it_is(path: Path, *, not_onnx: bool = False) -> str | None:
    """``is a Git LFS pointer ...; run git lfs pull.``: the end of a sentence that begins with the
    path. None where the content tells nothing. ``not_onnx``: it has been tried as an ONNX model.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    found = _by_first_bytes(head, path) or _text(head)
    if found is None and not not_onnx and _starts_as_onnx(head):
        found = "an ONNX model", "give it a name that ends in .onnx"
    found = found or _by_structure(head, path) or _ending(path)
    return None if found is None else "is {}; {}.".format(*found)


def _by_first_bytes(head: bytes, path: Path) -> tuple[str, str] | None:
    for magic, name, remedy in _MAGIC:
        if head.startswith(magic):
            return name, remedy
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _ONNX_ELSEWHERE.format("tf2onnx")
    if head[257:262] == b"ustar":
        return _tar(path)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(path)
    return None


def _text(head: bytes) -> tuple[str, str] | None:
    """Files that hold text where numbers are needed."""
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d+)$", head, re.MULTILINE)
        of = f" to a file of {int(size[1]):,} bytes" if size else ""
        return f"a Git LFS pointer{of} and not that file", "fetch it with git lfs pull"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        title = re.search(rb"<title[^>]*>([^<]{1,100})", head, re.IGNORECASE)
        called = f" ({' '.join(title[1].decode('utf-8', 'replace').split())!r})" if title else ""
        return (
            f"a web page{called} and not the file that was to be downloaded",
            "download it again, in a browser or from the link of the file itself",
        )
    if start.startswith(b"<?xml"):
        if b"<net " in head:
            return "an OpenVINO model", "give the ONNX model or checkpoint that it was made from"
        return "an XML document", "give the checkpoint or the ONNX model itself"
    if head and not any(head):
        return "full of zero bytes, as a download that broke off leaves it", "download it again"
    try:
        text = head.decode("utf-8") if len(head) < _HEAD else head[:-4].decode("utf-8", "strict")
    except UnicodeDecodeError:
        return None
    if all(c.isprintable() or c in "\t\r\n" for c in text):
        first = " ".join(text.split())[:40]
        return f"a text file that begins with {first!r}", "give the checkpoint or the ONNX model"
    return None


def _starts_as_onnx(head: bytes) -> bool:
    """The IR version, and a field that may follow it."""
    return len(head) > 2 and head[0] == 8 and 3 <= head[1] < 64 and head[2] in _ONNX_FIELDS


def _by_structure(head: bytes, path: Path) -> tuple[str, str] | None:
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle, as checkpoints are", "give it a name that ends in .pth or .pkl"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a safetensors checkpoint", "give it a name that ends in .safetensors"
    return None


def _ending(path: Path) -> tuple[str, str] | None:
    if re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        return _ENDINGS[".index"]
    return _ENDINGS.get(path.suffix.lower())


def _zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a damaged zip archive", "copy or download it again"
    inner = [name.partition("/")[2] for name in names]
    if "constants.pkl" in inner:
        return "a TorchScript program", "save the state dict of its training form"
    if "data.pkl" in inner:
        return "a PyTorch checkpoint", "give it a name that ends in .pth or .pt"
    if any(name.endswith("models/model.json") or name == "archive_format" for name in inner):
        return "a program that torch.export saved", _ONNX_ELSEWHERE.format("torch.onnx.export")
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz) of arrays", "give a checkpoint or an ONNX model"
    if "model.weights.h5" in names:
        return "a Keras model", _ONNX_ELSEWHERE.format("tf2onnx")
    return f"a zip archive of {_listed(names)}", _UNPACK


def _tar(path: Path) -> tuple[str, str]:
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member, _ in zip(archive, range(10), strict=False)]
    except (tarfile.TarError, OSError, ValueError):
        names = []
    if {"storages", "tensors", "pickle"} <= {Path(name).name for name in names}:
        return (
            "a checkpoint in the tar format that PyTorch left in 2017",
            "where you trust it, load it with torch.load(weights_only=False) and save it again",
        )
    return f"a tar archive of {_listed(names)}", _UNPACK


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more if names else "no files"
