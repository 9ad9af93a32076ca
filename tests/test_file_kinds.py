"""Files that are something else than their name says: the true cause, and what to do about it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file
from torch import nn

from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.graph.files import read_proto

from .conftest import Cli
from .helpers import training_state

PAGE = "<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"


def onnx_model() -> bytes:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    return bytes(helper.make_model(graph).SerializeToString())


def zipped(**members: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(*names: str) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def torch_bytes(content: Any) -> bytes:
    stream = BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def npz() -> bytes:
    stream = BytesIO()
    np.savez(stream, x=np.zeros(3))
    return stream.getvalue()


#: Name of the file, its content, what the sentence has to say: the kind, and the way out.
FOREIGN: dict[str, tuple[str, Callable[[], bytes], tuple[str, str]]] = {
    "lfs": ("a.pth", POINTER.encode, ("Git LFS pointer to a file of 12,345 bytes", "git lfs pull")),
    "page": ("a.pth", PAGE.encode, ("web page ('Google Drive - Virus", "download it again")),
    "zeros": ("a.pth", lambda: bytes(5000), ("full of zero bytes", "download it again")),
    "text": ("a.pth", lambda: b"epoch 1\n" * 900, ("text file that begins with 'epoch 1", "give")),
    "onnx": ("a.pth", onnx_model, ("an ONNX model", "ends in .onnx")),
    "gzip": ("a.pth", lambda: gzip.compress(b"1"), ("gzip", "decompress it")),
    "bzip2": ("a.pth", lambda: bz2.compress(b"1"), ("bzip2", "decompress it")),
    "xz": ("a.pth", lambda: lzma.compress(b"1"), ("xz", "decompress it")),
    "keras": ("a.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), ("HDF5", "ONNX (tf2onnx)")),
    "keras zip": ("a.keras", lambda: zipped(**{"model.weights.h5": b""}), ("Keras", "tf2onnx")),
    "tflite": ("a.pth", lambda: b"\x1c\0\0\0TFL3" + bytes(range(99)), ("Lite", "tf2onnx")),
    "saved model": ("a.pb", lambda: b"\x08\x01\x12\xff" + bytes(99), ("SavedModel", "tf2onnx")),
    "frozen": ("a.pb", lambda: b"\n\x99\x01" + bytes(range(99)), ("TensorFlow", "tf2onnx")),
    "tar": ("a.pth", lambda: tarred("x.pth"), ("tar archive of 'x.pth'", "unpack")),
    "old tar": (
        "a.pth",
        lambda: tarred("sys_info", "pickle", "tensors", "storages"),
        ("tar format that PyTorch left", "weights_only=False"),
    ),
    "zip": ("a.zip", lambda: zipped(**{"x/y.pth": b"1"}), ("zip archive of 'x/y.pth'", "unpack")),
    "empty zip": ("a.zip", zipped, ("zip archive of no files", "unpack")),
    "npz": ("a.npz", npz, ("NumPy archive", "give a checkpoint")),
    "npy": ("a.pth", lambda: b"\x93NUMPY" + bytes(99), ("NumPy array", "give")),
    "paddle program": ("a.pdmodel", lambda: b"\n\xff\xff" + bytes(9), ("Paddle", "paddle2onnx")),
    "openvino": ("a.xml", lambda: b'<?xml version="1.0"?>\n<net name="x">', ("OpenVINO", "give")),
    "exported program": (
        "a.pt2",
        lambda: zipped(**{"p/models/model.json": b"", "p/archive_format": b"pt2"}),
        ("torch.export", "ONNX"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_true_cause_and_the_way_out(kind: str, tmp_path: Path, cli: Cli) -> None:
    name, content, parts = FOREIGN[kind]
    path = tmp_path / name
    path.write_bytes(content())
    outcome = cli("fuse", path)
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == 1  # and no warning of a library's before it
    assert lines[0].startswith(f"Error: {path}: is ")
    assert all(part in lines[0] for part in parts), lines[0]


def test_a_torchscript_program_and_the_lines_that_turn_it_into_a_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    with warnings.catch_warnings():  # torch.jit is deprecated, its files are not
        warnings.simplefilter("ignore")
        torch.jit.trace(model, torch.zeros(1, 3, 8, 8)).save("model.pt")  # type: ignore[no-untyped-call]
    outcome = cli("fuse", "model.pt")
    assert outcome.code == 1
    sentence, *lines = outcome.err.splitlines()
    assert "model.pt: is a TorchScript program" in sentence
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec("\n".join(line.strip() for line in lines), {"torch": torch})
    state = load_checkpoint(Path("state_dict.pth")).state
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def paddle(state: dict[str, Any]) -> dict[str, Any]:
    names = {"running_mean": "_mean", "running_var": "_variance"}
    renamed = {}
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        if leaf != "num_batches_tracked":
            renamed[f"{path}.{names.get(leaf, leaf)}"] = value.numpy()
    return renamed


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("named", [True, False])
def test_paddle(protocol: int, named: bool, tmp_path: Path) -> None:
    path, content = tmp_path / "RepVGG_A0.pdparams", paddle(training_state())
    if named:
        content["StructuredToParameterName@@"] = {key: key for key in content}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=r"is a PaddlePaddle checkpoint.* ONNX \(paddle2onnx\)"):
        load_checkpoint(path)


def test_names_do_not_matter_for_checkpoints(tmp_path: Path) -> None:
    state = training_state()
    save_file(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "a.safetensors")
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    (tmp_path / "b.pth").write_bytes(pickle.dumps(arrays, protocol=2))
    for name in ("a.pth", "a.safetensors", "b.pth"):
        read = load_checkpoint(tmp_path / name).state
        assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: torch_bytes(training_state()), "is a PyTorch checkpoint; .* .pth or .pt"),
        (PAGE.encode, "is a web page"),
        (POINTER.encode, "is a Git LFS pointer"),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (lambda: bytes(5000), "full of zero bytes"),
        (lambda: b"", "is empty"),
        (lambda: onnx_model()[:-9], "is not an ONNX model, or damaged"),
    ],
)
def test_what_comes_in_the_name_of_an_onnx_model(
    content: Callable[[], bytes], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content())
    with pytest.raises(UserError, match=says):
        read_proto(path)
