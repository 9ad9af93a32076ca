"""Tensors whose bytes lie in a file beside the model.

We read them ourselves: onnx refuses hard links and links inside the folder, which are common where
models are shared, and leaves damaged entries to chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from onnx import StringStringEntryProto, TensorProto, helper, numpy_helper

from ...errors import UserError

#: Tensors smaller than this stay in the model itself.
SMALLEST_EXTERNAL = 1024
#: Offsets in the data file are multiples of this, so that runtimes can map it into memory.
_ALIGNMENT = 4096
_BLOCK = 1 << 24
#: Element types of which several share a byte.
_PER_BYTE = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}

_SIZED = set(TensorProto.DataType.values()) - {TensorProto.STRING, TensorProto.UNDEFINED}


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie, inside the model's folder."""

    location: str
    offset: int
    length: int


def is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def find_place(tensor: TensorProto, folder: Path, model: str) -> Place:
    """Read and check what a tensor says of its bytes; ``model`` is named in the sentence.

    Raises:
        UserError: a file outside the folder, missing or too short, or an entry that makes no sense.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    inside = "\0" not in location and not Path(location).is_absolute()
    if inside:
        inside = (folder / location).resolve().is_relative_to(folder.resolve())
    if not location or not inside:
        raise UserError(
            f"{model}: the data of {tensor.name!r} is said to be in {location!r}, outside the "
            "model's folder; save the model with its data beside it."
        )
    needed = _size(tensor)
    offset, length = entries.get("offset", "0"), entries.get("length", str(needed))
    if not offset.isdecimal():
        raise UserError(
            f"{model}: the data of {tensor.name!r} is said to start at byte {offset!r}; export the "
            "model again."
        )
    if length != str(needed):
        raise UserError(
            f"{model}: the data of {tensor.name!r} is said to be {length} bytes, and it takes "
            f"{needed}; export the model again."
        )
    file = folder / location
    if not file.is_file():
        raise UserError(f"{model}: its data file {location} is missing; put it beside the model.")
    if file.stat().st_size < int(offset) + needed:
        raise UserError(
            f"{model}: its data file {location} ends before the data of {tensor.name!r}; "
            "copy it again."
        )
    return Place(location, int(offset), needed)


def check_bytes(tensor: TensorProto, model: str) -> None:
    """UserError where the bytes that a model itself holds are not those of the tensor's shape."""
    if not tensor.HasField("raw_data"):
        return
    held = len(tensor.raw_data)
    if tensor.data_type not in _SIZED:
        raise UserError(
            f"{model}: the tensor {tensor.name!r} is of no known type of numbers "
            f"({tensor.data_type}); export the model again."
        )
    if held != _size(tensor):
        raise UserError(
            f"{model}: the tensor {tensor.name!r} holds {held} bytes, and its shape takes "
            f"{_size(tensor)}; export the model again."
        )


def check_dims(tensor: TensorProto, model: str) -> None:
    """UserError where a tensor's shape is none."""
    if any(side < 0 for side in tensor.dims):
        raise UserError(
            f"{model}: the tensor {tensor.name!r} has the shape {list(tensor.dims)}; export the "
            "model again."
        )


def _size(tensor: TensorProto) -> int:
    """Bytes that a tensor takes; 0 for types that have none of their own (strings, unknown)."""
    count: int = prod(tensor.dims)
    kind = tensor.data_type
    if kind not in _SIZED:
        return 0
    if shared := _PER_BYTE.get(TensorProto.DataType.Name(kind)):
        return -(-count // shared)
    return count * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def read_in(tensor: TensorProto, folder: Path, model: str = "the model") -> None:
    """Move the bytes of an external tensor into the message itself."""
    place = find_place(tensor, folder, model)
    tensor.raw_data = b"".join(_blocks(place, folder))
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def move_out(tensor: TensorProto, folder: Path | None, stream: BinaryIO) -> bool:
    """Write a tensor's bytes to ``stream``; whether it was external or large enough for that.

    :func:`name_file` says afterwards which file that was.
    """
    outside = is_external(tensor)
    if not outside and tensor.ByteSize() < SMALLEST_EXTERNAL:
        return False
    if not outside and tensor.data_type == TensorProto.STRING:
        return False
    start = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
    stream.seek(start)
    if outside:
        assert folder is not None
        for block in _blocks(find_place(tensor, folder, "the model"), folder):
            stream.write(block)
    else:
        if not tensor.HasField("raw_data"):  # external data is always raw
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        stream.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("offset", start), ("length", stream.tell() - start)):
        tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
    return True


def name_file(tensor: TensorProto, location: str) -> None:
    """Say in which file the bytes lie that :func:`move_out` wrote."""
    tensor.external_data.append(StringStringEntryProto(key="location", value=location))


def _blocks(place: Place, folder: Path) -> Iterator[bytes]:
    with (folder / place.location).open("rb") as source:
        source.seek(place.offset)
        left = place.length
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise UserError(f"{folder / place.location}: ends too early; copy it again.")
            yield block
            left -= len(block)
