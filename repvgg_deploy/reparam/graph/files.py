"""ONNX files: reading with the causes in words, writing with large weights in a file beside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from ...errors import UserError
from ...file_kinds import what_it_is
from ...files import read_error, sha256_file
from .check import check_header
from .external import check_bytes, check_dims, find_place, is_external, move_out, name_file, read_in
from .model import OnnxModel, inner_tensors, take_apart

#: A protobuf message holds less than 2 GiB; from here on weights go into a file beside the model.
LARGEST_MESSAGE = 2_000_000_000
GRAPH_FIELD = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
TENSOR_FIELD = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number


def read_proto(path: Path) -> ModelProto:
    """The model of a file, external data left where it is.

    Raises:
        UserError: no such file, not an ONNX model, one that check_header refuses, a tensor of too
            few bytes, or external data that is missing, too short or outside the model's folder.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the path of an ONNX model.")
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise UserError(f"{path}: is a device or a pipe; give the path of an ONNX model.")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of an ONNX model.") from error
    except OSError as error:
        raise read_error(path, error) from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise _not_onnx(path, "is not an ONNX model, or damaged") from error
    if not model.HasField("graph") or not model.ir_version:
        raise _not_onnx(path, "is not an ONNX model (it holds no graph)")
    check_header(model, str(path))
    for tensor in (*model.graph.initializer, *inner_tensors(model)):
        check_dims(tensor, str(path))
        if is_external(tensor):
            find_place(tensor, path.parent, str(path))
        else:
            check_bytes(tensor, str(path))
    return model


def _not_onnx(path: Path, otherwise: str) -> UserError:
    if not path.stat().st_size:
        return UserError(f"{path}: is empty; copy or export the model again.")
    found = what_it_is(path, not_onnx=True) or f"{otherwise}; export it again."
    return UserError(f"{path}: {found}")


def load_model(path: Path) -> ModelProto:
    """The model of a file with its external data read in; UserError as :func:`read_proto`."""
    model = read_proto(path)
    for tensor in (*model.graph.initializer, *inner_tensors(model)):
        if is_external(tensor):
            read_in(tensor, path.parent, str(path))
    return model


def read_model(path: Path) -> OnnxModel:
    """A model to fuse; its memory is the weights once, or less where they are external.

    Raises:
        UserError: as :func:`read_proto`, training information, or nodes in a circle.
    """
    model = read_proto(path)
    if model.training_info:
        raise UserError(f"{path}: holds training information; export the model for inference.")
    try:
        return take_apart(model, path.parent)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def data_files(model: OnnxModel) -> set[Path]:
    """The files in which external tensors lie."""
    tensors = [*model.weights.values(), *inner_tensors(model.skeleton)]
    return _places(tensors, model.folder or Path())


def data_files_of(path: Path) -> set[Path]:
    """The same of a file; UserError as :func:`read_proto`."""
    model = read_proto(path)
    return _places([*model.graph.initializer, *inner_tensors(model)], path.parent)


def _places(tensors: Iterable[TensorProto], folder: Path) -> set[Path]:
    return {
        folder / find_place(tensor, folder, "the model").location
        for tensor in tensors
        if is_external(tensor)
    }


def write_model(model: OnnxModel, path: Path, external: bool) -> list[Path]:
    """Write ``model``; the files written, the model itself first.

    With ``external`` (or where a message could not hold it) large weights are moved out of
    ``model`` to a file beside it. That is named by what it holds, ``<stem>.<start of its
    SHA-256>.data``, so that it never takes the place of another one.
    """
    size = sum(tensor.ByteSize() for tensor in model.weights.values())
    files = [path]
    if external or size + model.skeleton.ByteSize() > LARGEST_MESSAGE:
        files.append(_write_data(model, path))
    with path.open("wb") as stream:
        _write_message(model, stream)
    return files


def _write_data(model: OnnxModel, path: Path) -> Path:
    """Large weights, and whatever else was external, to one file."""
    unnamed = path.with_name(f"{path.stem}.data")
    tensors = [*model.weights.values(), *filter(is_external, inner_tensors(model.skeleton))]
    with unnamed.open("wb") as stream:
        moved = [tensor for tensor in tensors if move_out(tensor, model.folder, stream)]
    data = path.with_name(f"{path.stem}.{sha256_file(unnamed)[:12]}.data")
    for tensor in moved:
        name_file(tensor, data.name)
    return unnamed.replace(data)


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
