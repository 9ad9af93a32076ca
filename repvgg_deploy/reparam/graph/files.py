"""ONNX files: reading with the causes in words, writing with large weights in a file beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto, numpy_helper

from ...errors import UserError
from .model import OnnxModel, inner_tensors, take_apart

#: A protobuf message holds less than 2 GiB; from here on weights go into a file beside the model.
LARGEST_MESSAGE = 2_000_000_000
#: Tensors smaller than this stay in the model itself.
SMALLEST_EXTERNAL = 1024
#: Offsets in the data file are multiples of this, so that runtimes can map it into memory.
_ALIGNMENT = 4096
_BLOCK = 1 << 24
GRAPH_FIELD = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
TENSOR_FIELD = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number


def read_proto(path: Path) -> ModelProto:
    """The model of a file, external data left where it is.

    Raises:
        UserError: no such file, or not an ONNX model.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the path of an ONNX model.")
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of an ONNX model.") from error
    except (DecodeError, OSError) as error:
        raise UserError(f"{path}: is not an ONNX model, or damaged; export it again.") from error
    if not model.HasField("graph") or not model.ir_version:
        raise UserError(f"{path}: is not an ONNX model (it holds no graph); export it again.")
    return model


def read_model(path: Path) -> OnnxModel:
    """A model to fuse; its memory is the weights once, or less where they are external.

    Raises:
        UserError: as :func:`read_proto`, training information, or external data that is missing,
            too short or outside the model's folder.
    """
    model = read_proto(path)
    if model.training_info:
        raise UserError(f"{path}: holds training information; export the model for inference.")
    parts = take_apart(model, path.parent)
    for tensor in external_tensors(parts):
        _check_external(tensor, path)
    return parts


def external_tensors(model: OnnxModel) -> list[TensorProto]:
    tensors = [*model.weights.values(), *inner_tensors(model.skeleton)]
    return [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]


def _check_external(tensor: TensorProto, path: Path) -> None:
    """Only plain files inside the model's folder are read, and they have to be long enough."""
    location, offset, length = _external_place(tensor)
    file, folder = path.parent / location, path.parent.resolve()
    inside = not Path(location).is_absolute() and file.resolve().is_relative_to(folder)
    if not location or not inside or file.is_symlink():
        raise UserError(
            f"{path}: the data of {tensor.name!r} is said to be in {location!r}, outside the "
            "model's folder; save the model with its data beside it."
        )
    if not file.is_file():
        raise UserError(f"{path}: its data file {location} is missing; put it beside the model.")
    if file.stat().st_size < offset + (length or 0):
        raise UserError(
            f"{path}: its data file {location} ends before the data of {tensor.name!r}; "
            "copy it again."
        )


def _external_place(tensor: TensorProto) -> tuple[str, int, int | None]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = entries.get("length")
    return (
        entries.get("location", ""),
        int(entries.get("offset", 0)),
        None if length is None else int(length),
    )


def write_model(model: OnnxModel, path: Path, external: bool) -> list[Path]:
    """Write ``model``; the files written, the model itself first.

    With ``external`` (or where a message could not hold it) large weights are moved out of
    ``model`` to ``<path>.data``.
    """
    size = sum(tensor.ByteSize() for tensor in model.weights.values())
    files = [path]
    if external or size + model.skeleton.ByteSize() > LARGEST_MESSAGE:
        data = path.with_name(f"{path.name}.data")
        with data.open("wb") as stream:
            for tensor in (*model.weights.values(), *inner_tensors(model.skeleton)):
                _move_out(tensor, model.folder, stream, data.name)
        files.append(data)
    with path.open("wb") as stream:
        _write_message(model, stream)
    return files


def _write_message(model: OnnxModel, stream: BinaryIO) -> None:
    """One protobuf message, weight by weight: as a whole it would take three times its size."""
    rest = ModelProto()
    rest.CopyFrom(model.skeleton)
    rest.ClearField("graph")
    stream.write(rest.SerializeToString())
    graph = model.graph.SerializeToString()
    heads = [_head(TENSOR_FIELD, tensor.ByteSize()) for tensor in model.weights.values()]
    weights = sum(tensor.ByteSize() for tensor in model.weights.values())
    stream.write(_head(GRAPH_FIELD, len(graph) + sum(map(len, heads)) + weights))
    stream.write(graph)
    for head, tensor in zip(heads, model.weights.values(), strict=True):
        stream.write(head)
        stream.write(tensor.SerializeToString())


def _head(field: int, size: int) -> bytes:
    """What stands in front of a message inside a message: field number and kind, then its size."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _move_out(tensor: TensorProto, folder: Path | None, stream: BinaryIO, location: str) -> None:
    """A tensor's bytes to ``stream``; those in a file are copied in blocks."""
    outside = tensor.data_location == TensorProto.EXTERNAL
    if not outside and tensor.ByteSize() < SMALLEST_EXTERNAL:
        return
    if not outside and tensor.data_type == TensorProto.STRING:
        return
    start = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
    stream.seek(start)
    if outside:
        assert folder is not None
        _copy_bytes(tensor, folder, stream)
    else:
        if not tensor.HasField("raw_data"):  # external data is always raw
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        stream.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    place = {"location": location, "offset": start, "length": stream.tell() - start}
    tensor.external_data.extend(
        StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()
    )


def _copy_bytes(tensor: TensorProto, folder: Path, stream: BinaryIO) -> None:
    location, offset, length = _external_place(tensor)
    with (folder / location).open("rb") as source:
        left = os.fstat(source.fileno()).st_size - offset if length is None else length
        source.seek(offset)
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise UserError(f"{folder / location}: ends too early; copy it again.")
            stream.write(block)
            left -= len(block)
