"""ONNX models with bytes and fields changed at random: one sentence each, or a sound result."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, numpy_helper

from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.graph.files import read_proto
from repvgg_deploy.runners.onnx_info import read_onnx_info
from repvgg_deploy.steps.fuse_onnx import fuse_onnx
from repvgg_deploy.steps.inspect import inspect_onnx

from .conftest import Cli
from .graphs import graph

BODY = """
    t = Conv<pads=[1,1,1,1]>(x, three, b)  u = BatchNormalization(t, gamma, beta, mean, var)
    s = Conv(x, swap)  v = Add(u, s)  y = Relu(v)
"""
USED = {"three", "b", "gamma", "beta", "mean", "var", "swap"}
NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)
TEXTS = ("", "\0", "x", "y", "three", "é\u202e", "a" * 3000, "b/../c")
FLOATS = (0.0, float("nan"), float("inf"), 1e38, -1.0)


def block() -> ModelProto:
    """A small block, its weights in bytes, as exporters write them."""
    model = graph(BODY)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in USED]
    del model.graph.initializer[:]
    for tensor in kept:
        array = numpy_helper.to_array(tensor)
        model.graph.initializer.append(numpy_helper.from_array(array, tensor.name))
    return model


def messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = value if hasattr(value, "add") else [value]
            for part in inner:
                yield from messages(part)


def other_bytes(pick: random.Random) -> bytes:
    damaged = bytearray(block().SerializeToString())
    for _ in range(pick.choice((1, 1, 2, 4))):
        damaged[pick.randrange(len(damaged))] = pick.randrange(256)
    return bytes(damaged)


def other_field(pick: random.Random) -> bytes:
    """A field cleared, doubled, or of another value that its type allows."""
    model = block()
    message = pick.choice(list(messages(model)))
    field, value = pick.choice(message.ListFields() or [(None, None)])
    if field is None or pick.random() < 0.2:
        message.Clear()
        return bytes(model.SerializeToString())
    kinds: dict[int, tuple[Any, ...]] = {
        FieldDescriptor.TYPE_STRING: TEXTS,
        FieldDescriptor.TYPE_BYTES: tuple(text.encode() for text in TEXTS),
        FieldDescriptor.TYPE_FLOAT: FLOATS,
        FieldDescriptor.TYPE_DOUBLE: FLOATS,
        FieldDescriptor.TYPE_INT32: tuple(n for n in NUMBERS if -(2**31) <= n < 2**31),
        FieldDescriptor.TYPE_ENUM: (0, 1, 2, 7, 10, 16),
    }
    new = pick.choice(kinds.get(field.type, NUMBERS))
    if hasattr(value, "add"):
        value.append(pick.choice(value)) if pick.random() < 0.5 else value.pop()
    elif hasattr(value, "append"):
        value[pick.randrange(len(value))] = new
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, new)
    return bytes(model.SerializeToString())


def check(path: Path, prove: bool) -> bool:
    """Whether it was taken; then its result is a model that onnx can read, or that runs."""
    output = path.with_name("out.onnx")
    steps = (inspect_onnx, read_onnx_info, lambda path: fuse_onnx(path, output, prove=prove))
    said = [refusal(step, path) for step in steps]
    assert not any("\n" in sentence for sentence in said)
    if said[-1]:
        assert not output.exists()
        return False
    assert read_proto(output).graph.node
    output.unlink()
    return True


def refusal(step: Callable[[Path], object], path: Path) -> str:
    """The sentence of a step that refuses; empty where it does not."""
    try:
        step(path)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("change", [other_bytes, other_field])
def test_mutations(change: Callable[[random.Random], bytes], tmp_path: Path) -> None:
    path, taken = tmp_path / "m.onnx", 0
    for seed in range(250):
        path.write_bytes(change(random.Random(seed)))
        taken += check(path, prove=seed % 10 == 0)
    assert 25 < taken < 225  # else the mutations are too hard or too soft


def changed(edit: Callable[[ModelProto], object]) -> bytes:
    model = block()
    edit(model)
    return bytes(model.SerializeToString())


def weight(value: float) -> Callable[[ModelProto], object]:
    def edit(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "swap")
        array = numpy_helper.to_array(tensor).copy()
        array.flat[0] = value
        tensor.CopyFrom(numpy_helper.from_array(array, "swap"))

    return edit


def height(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


NEWEST = onnx.defs.onnx_opset_version()
REFUSED: dict[str, tuple[bytes, str]] = {
    "opset 2^40": (changed(lambda m: setattr(m.opset_import[0], "version", 2**40)), "its opset is"),
    "opset 0": (changed(lambda m: setattr(m.opset_import[0], "version", 0)), "its opset is 0"),
    "next opset": (
        changed(lambda m: setattr(m.opset_import[0], "version", NEWEST + 1)),
        f"knows those up to {NEWEST}; install a newer onnx",
    ),
    "IR 2^40": (changed(lambda m: setattr(m, "ir_version", 2**40)), "its IR version is"),
    "next IR": (
        changed(lambda m: setattr(m, "ir_version", onnx.IR_VERSION + 1)),
        "install a newer onnx",
    ),
    "no opset": (changed(lambda m: m.ClearField("opset_import")), "says of no opset"),
    "no nodes": (changed(lambda m: m.graph.ClearField("node")), "holds no nodes"),
    "not UTF-8": (changed(lambda m: None).replace(b"gamma", b"gam\xffa"), "is not UTF-8"),
    "huge image": (changed(height), "too large to be made up"),
    "negative side": (
        changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, -2)),
        "has the shape",
    ),
    "unknown type": (
        changed(lambda m: setattr(m.graph.initializer[0], "data_type", 99)),
        "no known type",
    ),
    "NaN": (changed(weight(np.nan)), "its weight 'swap' holds NaN"),
    "overflow": (changed(weight(3e38)), "its weight 'swap' holds values up to 3e+38"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_true_cause(kind: str, tmp_path: Path, cli: Cli) -> None:
    content, says = REFUSED[kind]
    (tmp_path / "m.onnx").write_bytes(content)
    outcome = cli("fuse", "m.onnx", "-o", "out.onnx")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: m.onnx: ")
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize("prove", [True, False])
def test_an_invalid_model_in_which_nothing_fuses_is_no_result(prove: bool, tmp_path: Path) -> None:
    model = graph("y = Relu(x)")
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="nothing in it fuses, and it is not a valid model"):
        fuse_onnx(tmp_path / "m.onnx", tmp_path / "out.onnx", prove=prove)
    assert not (tmp_path / "out.onnx").exists()
