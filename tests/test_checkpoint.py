"""Checkpoint files: what is read, and one sentence for each that is not."""

from __future__ import annotations

import os
import pickle
import random
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.steps.weights import read_weights

from .conftest import Cli
from .helpers import MANIFEST, golden, training_state


@pytest.mark.parametrize("name", MANIFEST)
def test_golden_files(name: str) -> None:
    checkpoint = load_checkpoint(golden(name))
    assert checkpoint.sha256 == MANIFEST[name]["sha256"]
    assert "stage0.rbr_dense.conv.weight" in checkpoint.state or MANIFEST[name]["form"] == "deploy"


@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda s: s, "bare state dict"),
        (lambda s: {"state_dict": s, "epoch": 3}, "state_dict"),
        (lambda s: {"model": s}, "model"),
        (lambda s: {"model_state_dict": s}, "model_state_dict"),
        (
            lambda s: {"model_ema": s},
            "model_ema, the moving average, which is what gets deployed; --no-ema takes the other",
        ),
        (
            lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
            "state_dict, prefix module.",
        ),
        (
            lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
            "bare state dict, prefix _orig_mod., prefix module.",
        ),
        (lambda s: {"model": {"state_dict": s}}, "model, state_dict"),
        (
            lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
            "bare state dict, without 'n_averaged', which counts what was averaged, prefix module.",
        ),
        (lambda s: {"model": s, "ema": None}, "model, its moving average, ema, is empty"),
        (lambda s: {"model": s, "ema": {}}, "model, its moving average, ema, is empty"),
        (
            lambda s: {**s, "epoch": 3, "name": "x"},
            "bare state dict, without 'epoch', 'name', which hold no tensors",
        ),
    ],
)
def test_wrappers_and_prefixes(tmp_path: Path, wrap: object, wrapper: str) -> None:
    state, path = training_state(), tmp_path / "x.pt"
    torch.save(wrap(state), path)  # type: ignore[operator]
    checkpoint = load_checkpoint(path)
    assert checkpoint.state.keys() == state.keys()
    assert checkpoint.wrapper == wrapper


def test_an_averaged_model_beside_the_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    average = AveragedModel(model)
    torch.save({"model": model.state_dict(), "model_ema": average.state_dict()}, tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt").state.keys() == model.state_dict().keys()


def test_safetensors_and_legacy_torch_files_are_told_by_content(tmp_path: Path) -> None:
    state = training_state()
    save_file(state, tmp_path / "a.bin")
    torch.save(state, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    for name in ("a.bin", "b.bin"):
        checkpoint = load_checkpoint(tmp_path / name)
        assert torch.equal(checkpoint.state["linear.weight"], state["linear.weight"])
        assert checkpoint.sha256 == sha256_file(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes(tmp_path: Path, zipped: bool) -> None:
    """Whatever the damage does to torch's reader, it is told as a sentence."""
    path, numbers = tmp_path / "x.pth", random.Random(0)
    torch.save(
        dict(list(training_state().items())[:8]), path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(numbers.choice((1, 2, 5))):
            damaged[numbers.randrange(len(whole))] = numbers.randrange(256)
        path.write_bytes(damaged)
        with suppress(UserError):
            read_weights(path)


class Bomb:
    """Unpickling this runs code that leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


def write_bad_file(kind: str, path: Path) -> None:
    state = training_state()
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("epoch 1, loss 0.3\n")
    elif kind == "truncated zip":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "cut in the middle":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "truncated safetensors":
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "whole model":
        torch.save(nn.Conv2d(1, 1, 1), path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps({"a": Bomb(path.with_name("boom"))}))
    elif kind == "code":
        torch.save({"state_dict": state, "x": Bomb(path.with_name("boom"))}, path)
    elif kind == "nan":
        state["stage1.0.rbr_1x1.conv.weight"][0] = float("nan")
        torch.save(state, path)
    elif kind == "infinity":
        state["linear.bias"][0] = float("-inf")
        torch.save(state, path)
    elif kind == "negative variance":
        state["stage1.0.rbr_1x1.bn.running_var"][0] = -1e-3
        torch.save(state, path)
    elif kind in UNUSUAL:
        state["linear.weight"] = UNUSUAL[kind](state["linear.weight"])
        torch.save(state, path)
    elif kind == "unknown wrapper":
        torch.save({"weights": state, "step": 5}, path)
    elif kind == "average in other form":
        torch.save({"model": state, "ema": {"decay": 0.9, "shadow": state}}, path)
    elif kind == "average alone, in other form":
        torch.save({"ema": {"decay": 0.9, "shadow": state}}, path)
    elif kind == "list beside tensors":
        torch.save({**state, "names": ["cat", "dog"]}, path)
    elif kind == "a tensor":
        torch.save(state["linear.weight"], path)
    elif kind == "holds itself":
        content: dict[str, object] = {}
        content["model"] = content
        torch.save(content, path)
    elif kind == "empty tensor":
        state["stage1.0.rbr_1x1.conv.weight"] = torch.empty(4, 0, 1, 1)
        torch.save(state, path)
    elif kind == "a zip's first bytes":
        path.write_bytes(b"PK\x03\x04 and garbage")
    elif kind == "one byte":
        path.write_bytes(b"\x80")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "escape codes":
        save_file({**state, "a\x1b[31m\nError: b": torch.ones(1)}, path)
    elif kind == "expanded tensor":
        torch.save({**state, "linear.weight": torch.zeros(1).expand(3 * 10**9)}, path)
    elif kind == "empty statistics":
        state["stage1.0.rbr_1x1.bn.running_mean"] = torch.empty(0)
        torch.save(state, path)
    elif kind == "empty dict":
        torch.save({}, path)


UNUSUAL = {
    "sparse": lambda t: t.to_sparse(),
    "complex": lambda t: t.to(torch.complex64),
    "meta": lambda t: t.to("meta"),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
}

BAD_FILES = {
    "missing": "no such file",
    "folder": "is a folder",
    "empty": "is empty",
    "text": r"is a text file that begins with 'epoch 1, loss 0\.3'",
    "truncated zip": "truncated or damaged",
    "cut in the middle": "truncated or damaged",
    "truncated safetensors": "truncated or damaged",
    "whole model": "loading it could run any code",
    "bare pickle": "could run code|neither a PyTorch|truncated or damaged",
    "code": "loading it could run any code",
    "nan": "'stage1.0.rbr_1x1.conv.weight' holds NaN or infinity",
    "infinity": "'linear.bias' holds NaN or infinity",
    "negative variance": "'stage1.0.rbr_1x1.bn.running_var' holds a negative variance",
    **dict.fromkeys(UNUSUAL, "'linear.weight' is a sparse, quantized, complex"),
    "complex": "linear.weight is of type torch.complex64; save the weights as floats",
    "unknown wrapper": r"no state dict found \(its keys: 'weights', 'step'\)",
    "average in other form": r"'ema', holds no state dict \(its keys: 'decay', 'shadow'\); take "
    "the weights themselves with --no-ema",
    "average alone, in other form": r"no state dict found \(its keys: 'decay', 'shadow'\)",
    "list beside tensors": r"holds 'names' beside the tensors of a state dict; save it without",
    "holds itself": r"no state dict found \(its keys: 'model'\)",
    "empty tensor": r"'stage1.0.rbr_1x1.conv.weight' is empty, of shape \(4, 0, 1, 1\)",
    "a zip's first bytes": "truncated or damaged",
    "one byte": "neither a PyTorch checkpoint",
    "pipe": "is no regular file",
    "escape codes": r"the name 'a\\x1b\[31m\\nError: b' holds control characters",
    "expanded tensor": r"'linear.weight' has shape \(3000000000,\), but the file holds only 4",
    "empty statistics": "shapes of its branches do not fit together",
    "a tensor": "holds a Tensor and no state dict",
    "empty dict": r"no state dict found \(its keys: none\)",
}


@pytest.mark.parametrize(("kind", "sentence"), BAD_FILES.items())
def test_bad_files(tmp_path: Path, kind: str, sentence: str) -> None:
    path = tmp_path / "ckpt.pth"
    write_bad_file(kind, path)
    with pytest.raises(UserError, match=sentence) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "boom").exists()  # no code of the file has run


OTHER = nn.Conv2d(9, 9, 9).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: {"model": model},
        lambda model: {"ema": None, "model": model},
        lambda model: {"ema": model, "model": nn.Conv2d(9, 9, 9)},
        lambda model: {"state_dict": model.state_dict(), "args": Namespace()},
        lambda model: {"model": model.state_dict(), "args": Namespace()},
        lambda model: {"ema": model.state_dict(), "model": {}, "args": Namespace()},
        *(
            lambda model, name=name: {
                "state_dict": OTHER,
                "model": OTHER,
                "args": Namespace(),
                name: model.state_dict(),
            }
            for name in ("state_dict_ema", "model_ema")
        ),
    ],
)
def test_the_lines_that_a_refusal_prints_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[nn.Module], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    torch.save(wrap(model), "model.pt")
    with pytest.raises(UserError, match=r"\((torch.nn|argparse)\.[\w.]+\)") as error:
        load_checkpoint(Path("model.pt"))
    sentence, *lines = str(error.value).splitlines()
    assert sentence.endswith(":")
    assert len(lines) == 4
    exec("\n".join(line.strip() for line in lines), {"torch": torch})
    state = load_checkpoint(Path("state_dict.pth")).state
    assert state.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("key", "value", "dtype"),
    [
        ("stage1.0.rbr_dense.conv.weight", 1e38, torch.float32),
        ("linear.weight", 1e38, torch.float32),
        ("stage1.0.rbr_dense.conv.weight", 1e100, torch.float64),
    ],
)
def test_weights_that_overflow_are_the_cause(
    key: str, value: float, dtype: torch.dtype, cli: Cli
) -> None:
    """Neither our fault, nor one of the images or the batch norms."""
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in training_state().items()}
    state[key].fill_(value)
    torch.save(state, "big.pth")
    outcome = cli("fuse", "big.pth")
    assert outcome.code == 3  # it ran, and nothing could be proved
    assert len(outcome.err.splitlines()) == 1
    assert f"{key!r}" in outcome.err
    assert f"values up to {value:.2g}" in outcome.err
    assert not Path("engines", "current.json").exists()


def test_keys_that_are_no_names(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    torch.save({"a.weight": tensor, "b.weight": tensor, 7: tensor}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="has 7 among its keys, which are no names"):
        load_checkpoint(tmp_path / "x.pth")
