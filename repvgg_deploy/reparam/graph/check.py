"""What a model has to be before anything looks into it: text that is text, versions that exist."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto

from ...errors import UserError
from .model import is_standard, largest_weight

_AGAIN = "the file is damaged, so export the model again."


def check_header(model: ModelProto, name: str) -> None:
    """Refuse a model that nothing could make sense of; ``name`` begins the sentence.

    Raises:
        UserError: text that is not UTF-8, no nodes, no opset, or a version that the installed onnx
            does not know.
    """
    for message in _messages(model):
        if garbled := _garbled(message):
            raise UserError(
                f"{name}: {message.DESCRIPTOR.name} has the {garbled}, which is not UTF-8 text; "
                f"{_AGAIN}"
            )
    if not model.graph.node:
        raise UserError(f"{name}: holds no nodes; {_AGAIN}")
    _check_version(name, "IR version", model.ir_version, onnx.IR_VERSION)
    versions = [entry.version for entry in model.opset_import if is_standard(entry.domain)]
    standard = [node.op_type for node in model.graph.node if is_standard(node.domain)]
    if standard and not versions:
        raise UserError(
            f"{name}: says of no opset how its operators ({standard[0]!r}) are meant; export the "
            "model again, to opset 13 or later."
        )
    for version in versions:
        _check_version(name, "opset", version, onnx.defs.onnx_opset_version())


def check_no_nan(model: ModelProto, path: Path) -> tuple[str, float]:
    """The constant of the model at ``path`` with the largest number, and that number.

    Raises:
        UserError: a constant holds NaN (infinity may be meant, as a mask).
    """
    name, largest = largest_weight(model, path.parent)
    if math.isnan(largest):
        raise UserError(
            f"{path}: its weight {name!r} holds NaN; the training diverged or the file is "
            "damaged, so export it from an earlier checkpoint."
        )
    return name, largest


def _check_version(name: str, kind: str, version: int, newest: int) -> None:
    if version < 1 or version > 1000:
        raise UserError(f"{name}: its {kind} is {version}; {_AGAIN}")
    if version > newest:
        raise UserError(
            f"{name}: its {kind} is {version}, and onnx {onnx.__version__}, which is installed, "
            f"knows those up to {newest}; install a newer onnx, or export the model to an older "
            f"{kind}."
        )


def _messages(message: Message) -> Iterator[Message]:
    """A message and those inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if _is_list(value) else [value]:
                yield from _messages(inner)


def _garbled(message: Message) -> str | None:
    """A field of text that is none, with its content: protobuf gives bytes in its place."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in value if _is_list(value) else [value]:
                if not isinstance(text, str):
                    return f"{field.name} {text!r}"
    return None


def _is_list(value: object) -> bool:
    return hasattr(value, "append") or hasattr(value, "add")
