"""MegEngine's pickles of numpy arrays, plain and hostile."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.checkpoint.numpy_pickle import numpy_pickle
from repvgg_deploy.errors import UserError

from .helpers import training_state

RECONSTRUCT = np.zeros(1).__reduce__()[0]


class Call:
    """Pickles as a call of a function, with a state for what it returns."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


def state_of(shape: tuple[int, ...], dtype: object, data: bytes) -> Call:
    """An array made by the state that the file gives it."""
    return Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


FORGED = Call(
    np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 1)
)
HOSTILE = {
    "forged dtype": state_of((4,), FORGED, b"A" * 32),
    "objects": Call(np.ndarray, ((1,), np.dtype("O"), b"A" * 8)),
    "stride 0": Call(np.ndarray, ((10**9,), "<f4", b"AAAA", 0, (0,))),
    "no bytes": Call(np.ndarray, ((10**14,), "<f4")),
    "too few bytes": state_of((10**9,), np.dtype("f4"), b"AAAA"),
    "too many bytes": state_of((1,), np.dtype("f4"), b"A" * 400),
    "negative shape": state_of((-1, -1), np.dtype("f4"), b"AAAA"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_arrays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"a": HOSTILE[kind]}, protocol=4))
    with pytest.raises(UserError, match=r"more than numpy arrays|truncated or damaged"):
        load_checkpoint(path)


def test_arrays_of_every_kind(tmp_path: Path) -> None:
    plain = np.arange(6).reshape(2, 3)
    arrays = {
        **{dtype: plain.astype(dtype) for dtype in ("f2", "f4", ">f4", "f8", "i8", "u1", ">u2")},
        "bool": plain > 2,
        "fortran": np.asfortranarray(plain.astype("f4")),
        "empty": np.zeros((0, 2), "f4"),
        "number": np.array(1.5),
    }
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    for key, tensor in load_checkpoint(path).state.items():
        assert np.array_equal(tensor.numpy(), arrays[key]), key
        assert tensor.numpy().dtype == arrays[key].dtype.newbyteorder("=")


def test_what_fuse_writes_reads_back_and_can_be_written_to(tmp_path: Path) -> None:
    """A warning of torch's about read-only memory would fail this test."""
    path, state = tmp_path / "fused.pkl", training_state()
    path.write_bytes(numpy_pickle(state))
    read = load_checkpoint(path).state
    assert all(torch.equal(read[key], state[key]) for key in state)
    read["linear.weight"].zero_()
