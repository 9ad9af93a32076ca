"""A check that fails ends each command with exit code 3 and is shown as a failure, never as a note.

The faults are put in where the tool computes, so the checks themselves are the real ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

import repvgg_deploy
from repvgg_deploy.errors import CheckFailed, RepvggDeployError, UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.reparam import state_dict
from repvgg_deploy.reparam.graph import rewrite
from repvgg_deploy.sidecar import sidecar_path
from repvgg_deploy.steps import export, quantize, write_int8

from .conftest import Cli, Outcome
from .helpers import GOLDEN, training_state
from .test_bench_faults import change_weights

FOLDER = Path("engines/ckpt")
ONNX = FOLDER / "fp32.onnx"
QUICK = ("--duration", "0.02", "--threads", "1", "--no-roofline")


def everything() -> dict[str, bytes]:
    """Each file of the workspace."""
    return {str(p): p.read_bytes() for p in Path("engines").rglob("*") if p.is_file()}


def failed(result: Outcome) -> str:
    """The sentence that the command ends in."""
    assert result.code == 3, (result.code, result.err)
    assert "Traceback" not in result.err
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    return last


def test_a_failed_check_is_no_user_error() -> None:
    """Code that goes on without what cannot be used catches UserError, and goes on with nothing
    that is wrong."""
    assert not issubclass(CheckFailed, UserError)
    assert not issubclass(UserError, CheckFailed)
    for kind, code in ((UserError, 1), (CheckFailed, 3)):
        assert issubclass(kind, RepvggDeployError)
        assert kind.exit_code == code
        assert getattr(repvgg_deploy, kind.__name__) is kind
    assert repvgg_deploy.RepvggDeployError is RepvggDeployError


def damaging_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = state_dict.fuse_in_place

    def damaged(state: dict[str, torch.Tensor], *arguments: Any, **options: Any) -> None:
        fold(state, *arguments, **options)
        key = next(key for key in state if key.endswith("rbr_reparam.weight"))
        state[key] = state[key] * 1.01

    monkeypatch.setattr("repvgg_deploy.steps.fuse.fuse_in_place", damaged)


def test_fuse(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaging_fusion(monkeypatch)
    failed(cli("fuse", checkpoint))
    assert not everything()


def test_fuse_of_a_network_that_overflows_by_itself(cli: Cli) -> None:
    """The network is at fault, and not this tool; NumPy's warnings do not come before that."""
    huge = {
        key: value * 1e30 if key.endswith("conv.weight") else value
        for key, value in training_state().items()
    }
    torch.save(huge, "huge.pth")
    result = cli("fuse", "huge.pth")
    sentence = failed(result)
    assert "huge.pth" in sentence and "overflows float32" in sentence
    assert "report this" not in result.err
    assert len(result.err.splitlines()) == 1
    assert not everything()


def test_fuse_onnx(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = rewrite._fold
    monkeypatch.setattr(rewrite, "_fold", lambda *given: fold(*given) + fold(*given))
    failed(cli("fuse", GOLDEN / "official_plain.bn.onnx", "-o", "fused.onnx"))
    assert not Path("fused.onnx").exists()


def test_export(pipeline: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    simplify, before = export.simplify, everything()

    def damaged(*arguments: Any) -> ModelProto:
        model = simplify(*arguments)
        tensor = model.graph.initializer[0]
        values = numpy_helper.to_array(tensor) * np.float32(1.01)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return model

    monkeypatch.setattr(export, "simplify", damaged)
    failed(pipeline("export", "--onnx", "--size", "32"))
    assert everything() == before


def test_quantize(pipeline: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An integer of the model that is not that of the file beside it."""
    tensors, before = write_int8.int8_tensors, everything()

    def damaged(*arguments: Any) -> dict[str, torch.Tensor]:
        made = tensors(*arguments)
        key = next(key for key in made if made[key].dtype == torch.int8)
        made[key][0] ^= 1
        return made

    monkeypatch.setattr(write_int8, "int8_tensors", damaged)
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32))
    failed(pipeline("quantize", "--calib", "x.npz", "--method", "minmax"))
    assert everything() == before


def test_quantize_to_a_network_that_has_lost_its_answers(
    pipeline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "LEAST_SQNR_DB", 200.0)
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32))
    failed(pipeline("quantize", "--calib", "x.npz", "--method", "minmax"))


def test_verify(pipeline: Cli) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32(1.01))
    failed(pipeline("verify", FOLDER / "fused.safetensors", ONNX))
    assert "proof" in failed(pipeline("verify"))


def test_verify_of_outputs_of_another_shape(pipeline: Cli) -> None:
    model = onnx.load(ONNX)
    model.graph.node.append(onnx.helper.make_node("Concat", ["logits", "logits"], ["two"], axis=1))
    model.graph.output[0].name = "two"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
    onnx.save(model, "two.onnx")
    assert "two.onnx" in failed(pipeline("verify", FOLDER / "fused.safetensors", "two.onnx"))


def test_verify_of_a_folder_with_a_proof_that_cannot_run(pipeline: Cli) -> None:
    """What cannot be run of one file does not hide that another one is wrong, in either order."""
    assert pipeline("export", "--onnx", "--fp16", "--size", "32").code == 0
    change_weights(ONNX, lambda weights: weights * np.float32(1.01))
    half = FOLDER / "fp16.onnx"
    model = onnx.load(half)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, half)
    data = json.loads(sidecar_path(half).read_text())
    data["sha256"] = sha256_file(half)
    sidecar_path(half).write_text(json.dumps(data))
    result = pipeline("verify", "--json")
    assert "fp32.onnx" in failed(result)
    found = {(c["file"], c["kind"]): c["passed"] for c in json.loads(result.out)["checks"]}
    assert (found["fp16.onnx", "proof"], found["fp32.onnx", "proof"]) == (None, False)
    ONNX.unlink()
    sidecar_path(ONNX).unlink()
    result = pipeline("verify")
    assert result.code == 1
    assert "fp16.onnx" in result.err.splitlines()[-1]


@pytest.mark.parametrize("factor", [1.01, np.nan])
def test_bench(pipeline: Cli, factor: float) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32(factor))
    result = pipeline("bench", "--runtime", "onnxruntime-cpu", *QUICK, "--json")
    assert "onnxruntime-cpu, batch 1: fused" in failed(result)
    (contest,) = json.loads(result.out)["contests"]
    assert len(contest["measured"]) >= 2  # the others were measured all the same


def test_bench_of_a_server(pipeline: Cli) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32("nan"))
    server = ("--scenario", "server", "--bound", "1000", "--rate", "50", "--requests", "120")
    result = pipeline("bench", "--runtime", "onnxruntime-cpu", *QUICK[2:4], *server)
    assert "onnxruntime-cpu: fused" in failed(result)


def test_bench_of_nothing_but_what_fails(pipeline: Cli) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32("nan"))
    alone = ("--output", "b.json", ONNX, "--runtime", "onnxruntime-cpu")
    assert "NaN or infinity" in failed(pipeline("bench", *alone, *QUICK))


def test_evaluate(pipeline: Cli) -> None:
    change_weights(ONNX, lambda weights: weights * np.float32("nan"))
    np.savez("x.npz", x=np.zeros((4, 3, 32, 32), np.float32), y=np.arange(4))
    result = pipeline("evaluate", "--data", "x.npz", "--json")
    assert "fp32.onnx: gave NaN or infinity" in failed(result)
    scores = {n["name"]: n["scores"]["not_finite"] for n in json.loads(result.out)["networks"]}
    assert (scores["fp32.onnx"], scores["fused.safetensors"]) == (4, 0)


def test_serve(pipeline: Cli) -> None:
    path = sidecar_path(ONNX)
    path.write_text(json.dumps({**json.loads(path.read_text()), "proof": {"passed": False}}))
    assert "failed its proof" in failed(pipeline("serve", "--triton", "repository"))
    assert not Path("repository").exists()


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_bench_of_a_sidecar_that_claims_another_precision(pipeline: Cli, precision: str) -> None:
    assert pipeline("export", "--onnx", "--fp16", "--size", "32").code == 0
    path = sidecar_path(FOLDER / "fp16.onnx")
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": precision}))
    result = pipeline("bench", "--runtime", "onnxruntime-cpu", *QUICK)
    assert result.code == 1
    assert f"its sidecar says {precision}, but: fp16" in result.err.splitlines()[-1]


def test_evaluate_of_files_that_are_not_what_they_were(pipeline: Cli) -> None:
    """A changed file is an error; one that other weights went into is left out, with the reason."""
    np.savez("x.npz", x=np.zeros((4, 3, 32, 32), np.float32), y=np.arange(4))
    assert pipeline("fuse", "ckpt.pth", "--eps", "1e-3").code == 0
    result = pipeline("evaluate", "--data", "x.npz", "--json")
    assert result.code == 0, result.err
    assert "fp32.onnx: was not made from the fused weights of its folder" in result.err
    assert "fp32.onnx" not in [n["name"] for n in json.loads(result.out)["networks"]]
    ONNX.write_bytes(ONNX.read_bytes() + b"\0")
    result = pipeline("evaluate", "--data", "x.npz")
    assert result.code == 1
    assert "fp32.onnx: is not the file that" in result.err.splitlines()[-1]


def test_images_of_one_colour_prove_nothing(pipeline: Cli) -> None:
    """On black images the first kernels have no effect, so any would pass."""
    np.savez("black.npz", x=np.zeros((4, 3, 32, 32), np.float32))
    change_weights(ONNX, lambda weights: weights * np.float32(1.5))
    result = pipeline("verify", FOLDER / "fused.safetensors", ONNX, "--images", "black.npz")
    assert result.code == 1
    assert "every image is of one colour" in result.err
