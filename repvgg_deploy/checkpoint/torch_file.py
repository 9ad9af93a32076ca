"""Files of torch.save: the zip format, and the older one of several pickles in a row.

torch.load is not used: it inflates before anything can be checked, lets a checksum be wrong, reads
no pickle beyond protocol 2, and reads the optimizer's state along with the weights.
"""

from __future__ import annotations

import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..archives import check_inflation, size_text
from ..errors import UserError
from .declared import Damaged, Declared, Refused, Sealed, UnusualTensor
from .numpy_pickle import NUMPY
from .pickles import PLAIN, Named, Table, Unpickler, look_up

#: torch.save stores records as they are. A file that was packed again holds floats, which hardly
#: shrink; pruned and quantized weights shrink more, but no trained network this much.
_MOST_INFLATION = 20
#: The same of the pickle alone, each byte of which may become an object of 64.
_MOST_INFLATION_OF_INDEX, _HARMLESS_INDEX = 30, 8_000_000
_BLOCK = 1 << 20
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QInt32Storage": torch.qint32,
    "QUInt8Storage": torch.quint8,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
    "UntypedStorage": torch.uint8,
}


class _Bytes:
    """The bytes of one storage, read once: tensors that share them in the file do so in memory."""

    def __init__(self, size: int, read: Callable[[int], Tensor]) -> None:
        self.size = size
        self._read = read
        self._loaded: Tensor | None = None

    def load(self) -> torch.UntypedStorage:
        if self._loaded is None:
            self._loaded = self._read(self.size)
        return self._loaded.untyped_storage()


class _Storage(Sealed):
    """A part of some bytes, in elements of ``dtype``: from ``start`` on ``count`` of them."""

    __slots__ = ("bytes", "count", "dtype", "start")

    def __init__(self, content: _Bytes, dtype: torch.dtype, start: int, count: int) -> None:
        self.bytes, self.dtype, self.start, self.count = content, dtype, start, count


class _Tensor(Declared):
    """A view of a storage, as torch describes one."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(
        self, storage: _Storage, offset: int, size: Any, stride: Any, dtype: torch.dtype
    ) -> None:
        self.storage, self.dtype = storage, dtype
        self.offset, self.size, self.stride = offset, tuple(size), tuple(stride)

    def read(self) -> Tensor:
        numbers = (self.offset, *self.size, *self.stride)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise Damaged("a tensor has a size or a stride that is none")
        if len(self.size) != len(self.stride):
            raise Damaged("a tensor has more sizes than strides, or fewer")
        last = sum((size - 1) * step for size, step in zip(self.size, self.stride, strict=True))
        needed = 0 if 0 in self.size else self.offset + last + 1
        storage = self.storage
        first = storage.start * storage.dtype.itemsize // self.dtype.itemsize + self.offset
        held = storage.count * storage.dtype.itemsize // self.dtype.itemsize
        if needed > held:  # torch would make the storage larger
            raise Damaged(f"a tensor takes {needed} numbers and its storage holds {held}")
        return torch.empty(0, dtype=self.dtype).set_(
            storage.bytes.load(), first, self.size, self.stride
        )


def _tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Declared:
    return _Tensor(storage, offset, size, stride, storage.dtype)


def _tensor_v2(
    storage: _Storage, offset: int, size: Any, stride: Any, *more: Any
) -> Declared:  # requires_grad, hooks, metadata
    if len(more) > 2 and more[2]:
        return UnusualTensor("a conjugate or negative view")
    return _Tensor(storage, offset, size, stride, storage.dtype)


def _tensor_v3(
    storage: _Storage, offset: int, size: Any, stride: Any, *more: Any
) -> Declared:  # requires_grad, hooks, dtype, metadata
    if len(more) > 3 and more[3]:
        return UnusualTensor("a conjugate or negative view")
    return _Tensor(storage, offset, size, stride, more[2])


def _unusual(kind: str) -> Callable[..., Declared]:
    return lambda *_: UnusualTensor(kind)


def _first(value: Any, *_: Any) -> Any:
    return value


def _from_type(function: Named, kind: Any, arguments: tuple[Any, ...], state: Any) -> Any:
    """A tensor that has attributes of its own, without them."""
    return function(*arguments)


_TABLE: Table = {
    **PLAIN,
    **NUMPY,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch._utils", "_rebuild_sparse_tensor"): _unusual("sparse"),
    ("torch._utils", "_rebuild_qtensor"): _unusual("quantized"),
    ("torch._utils", "_rebuild_nested_tensor"): _unusual("nested"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _unusual("meta, without numbers"),
    ("torch._utils", "_rebuild_wrapper_subclass"): _unusual("of a class of its own"),
    ("torch.serialization", "_get_layout"): _first,
    ("torch", "Size"): _first,
    ("torch", "device"): _first,
    ("torch", "Tensor"): _first,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch", "per_tensor_affine"): _first,
    ("torch", "per_channel_affine"): _first,
}


def _find(module: str, name: str) -> Any:
    if module in ("torch", "torch.storage") and name in _STORAGES:
        return _STORAGES[name]
    kind = vars(torch).get(name) if module == "torch" else None  # getattr would import modules
    return kind if isinstance(kind, torch.dtype) else look_up(_TABLE, module, name)


def _checked(kind: Any, dtype: Any, key: Any, count: Any) -> tuple[torch.dtype, int]:
    if kind != "storage" and isinstance(dtype, Named):
        raise Refused("a module with its source code")
    if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int:
        raise Damaged("a storage is not described as one")
    if count < 0:
        raise Damaged("a storage has a negative size")
    if not isinstance(key, (str, int)):  # as text, lists inside lists can be longer than any memory
        raise Damaged("a storage is not described as one")
    return dtype, count


@contextmanager
def open_zip(path: Path) -> Iterator[Any]:
    """What torch.save wrote in its zip format, tensors declared.

    Raises:
        UserError: it is encrypted, or would inflate beyond all measure.
        Refused: it refers to anything but tensors and plain values.
        Exception: it is damaged, and stumbled in one of many ways.
    """
    with zipfile.ZipFile(path) as archive:
        _check_records(path, archive.infolist())
        content = _Zip(archive)
        yield Unpickler(BytesIO(content.index), _find, content.storage).load()


def _check_records(path: Path, records: list[zipfile.ZipInfo]) -> None:
    if any(record.flag_bits & 1 for record in records):
        raise UserError(f"{path}: is encrypted with a password; unpack it and save it without one.")
    if len({record.filename for record in records}) < len(records):
        raise Damaged("it holds two records of one name")  # which torch.load reads otherwise
    check_inflation(path, records, _MOST_INFLATION)


class _Zip:
    """The records of a checkpoint, all in one folder."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        found = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if not found:
            raise Damaged("it holds no data.pkl")
        self._root = found[0].rpartition("/")[0]
        for record in archive.infolist():
            if record.CRC == 0:  # torch.serialization.set_crc32_options(False): nothing to check
                record.CRC = None  # type: ignore[assignment]
        index = archive.getinfo(found[0])
        if index.file_size > max(_HARMLESS_INDEX, _MOST_INFLATION_OF_INDEX * index.compress_size):
            inflated = f"{size_text(index.compress_size)} to {size_text(index.file_size)}"
            raise Damaged(f"its record {index.filename} would inflate from {inflated}")
        self.index = archive.read(index)
        order = f"{self._root}/byteorder"
        swapped = order in archive.namelist() and archive.read(order) != sys.byteorder.encode()
        self._swapped = swapped
        self._bytes: dict[str, _Bytes] = {}

    def storage(self, kind: Any, dtype: Any, key: Any, place: Any, count: Any) -> _Storage:
        """What a pickle's reference to a storage stands for."""
        dtype, count = _checked(kind, dtype, key, count)
        name = f"{self._root}/data/{key}"
        if name not in self._bytes:
            size = count * dtype.itemsize
            held = self._archive.getinfo(name).file_size if size else 0
            if held != size:
                raise Damaged(f"the record {name} holds {held} bytes, and {size} are needed")
            self._bytes[name] = _Bytes(size, lambda size: self._read(name, size, dtype))
        return _Storage(self._bytes[name], dtype, 0, self._bytes[name].size // dtype.itemsize)

    def _read(self, name: str, size: int, dtype: torch.dtype) -> Tensor:
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        with self._archive.open(name) as stream:  # which checks the CRC-32 at the end
            return _read(stream, size, dtype if self._swapped else None)


@contextmanager
def open_legacy(path: Path) -> Iterator[Any]:
    """The same of what torch.save wrote before its zip format."""
    with path.open("rb") as stream:
        yield _Legacy(stream).content


class _Legacy:
    """Five pickles, and behind them the storages in the order of the last."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._bytes: dict[str, _Bytes] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._places: dict[str, int] = {}
        self._load()  # a magic number
        self._load()  # the version of the format, always the same
        self._swapped = not self._load().get("little_endian", True)
        self.content = self._load()
        keys = self._load()
        end = stream.seek(0, 2) if not keys else self._find_places(keys)
        if any(name not in self._places for name in self._bytes) or end > stream.seek(0, 2):
            raise Damaged("it ends before its last tensor")

    def _load(self) -> Any:
        return Unpickler(self._stream, _find, self.storage).load()  # type: ignore[arg-type]

    def _find_places(self, keys: list[str]) -> int:
        for key in keys:
            (count,) = struct.unpack("<q", self._stream.read(8))
            held = count * self._dtypes[key].itemsize
            if held != self._bytes[key].size:
                raise Damaged(f"storage {key} holds {held} bytes, not {self._bytes[key].size}")
            self._places[key] = self._stream.tell()
            self._stream.seek(held, 1)
        return self._stream.tell()

    def storage(
        self, kind: Any, dtype: Any, key: Any, place: Any, count: Any, view: Any = None
    ) -> _Storage:
        """What a pickle's reference to a storage stands for; ``view``: a part of it."""
        dtype, count = _checked(kind, dtype, key, count)
        if key not in self._bytes:
            self._dtypes[key] = dtype
            self._bytes[key] = _Bytes(count * dtype.itemsize, lambda size: self._read(key, size))
        whole = self._bytes[key]
        start, count = (0, whole.size // dtype.itemsize) if view is None else view[1:]
        if min(start, count) < 0 or (start + count) * dtype.itemsize > whole.size:
            raise Damaged("a storage is a view beyond another one")
        return _Storage(whole, dtype, start, count)

    def _read(self, key: str, size: int) -> Tensor:
        self._stream.seek(self._places[key])
        return _read(self._stream, size, self._dtypes[key] if self._swapped else None)


def _read(stream: IO[bytes], size: int, swap: torch.dtype | None) -> Tensor:
    """``size`` bytes as a tensor of bytes; ``swap``: numbers of this type, of the other order."""
    target = torch.empty(size, dtype=torch.uint8)
    view = target.numpy()
    for start in range(0, size, _BLOCK):
        wanted = min(_BLOCK, size - start)
        block = stream.read(wanted)
        if len(block) != wanted:
            raise Damaged("it ends before its last tensor")
        view[start : start + wanted] = np.frombuffer(block, np.uint8)
    if swap is not None:
        target.untyped_storage().byteswap(swap)  # type: ignore[no-untyped-call]
    return target
