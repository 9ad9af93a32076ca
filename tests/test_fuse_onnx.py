"""fuse and inspect for ONNX files: what is written, what is refused, external data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from repvgg_deploy.artifacts import FusedOnnxArtifact
from repvgg_deploy.equivalence.graph import prove_graphs
from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.reparam.graph import rewrite
from repvgg_deploy.reparam.graph.model import OnnxModel
from repvgg_deploy.reparam.linear import LinearConv
from repvgg_deploy.sidecar import read_sidecar, sidecar_path
from repvgg_deploy.steps import fuse_onnx as fuse_onnx_step
from repvgg_deploy.steps.fuse_onnx import fuse_onnx
from repvgg_deploy.steps.inspect import inspect_onnx
from repvgg_deploy.steps.verify import verify_pair

from .graphs import graph, operators
from .helpers import GOLDEN

SOURCE = GOLDEN / "official_plain.bn.onnx"


def test_a_fused_file_and_its_sidecar(tmp_path: Path) -> None:
    output = tmp_path / "new" / "fused.onnx"
    result = fuse_onnx(SOURCE, output)
    assert result.files == (output,)
    assert operators(onnx.load(output))["Conv"] == 9
    artifact = read_sidecar(output, FusedOnnxArtifact)
    assert artifact.sha256 == result.artifact.sha256
    assert artifact.source.sha256 == sha256_file(SOURCE)
    assert len(artifact.fused) == len(result.fused) == 9
    assert artifact.proof is not None
    assert artifact.proof["passed"] is True
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "fused.onnx", "fused.onnx.json",
    ]  # fmt: skip


def test_without_proof(tmp_path: Path) -> None:
    result = fuse_onnx(SOURCE, tmp_path / "fused.onnx", prove=False)
    assert result.proof is None
    assert json.loads((tmp_path / "fused.onnx.json").read_text())["proof"] is None


def test_inputs_from_a_file(tmp_path: Path) -> None:
    x = np.load(GOLDEN / "official_plain.npz")["x"]
    np.savez(tmp_path / "x.npz", input=x)
    result = fuse_onnx(SOURCE, tmp_path / "fused.onnx", inputs=tmp_path / "x.npz")
    assert result.proof is not None
    assert result.proof.outputs[0].samples == len(x)


def test_nothing_to_fuse_gives_the_same_bytes(tmp_path: Path) -> None:
    source = GOLDEN / "official_deployed.onnx"
    result = fuse_onnx(source, tmp_path / "fused.onnx")
    assert (result.fused, result.proof) == ((), None)
    assert (tmp_path / "fused.onnx").read_bytes() == source.read_bytes()
    assert read_sidecar(tmp_path / "fused.onnx", FusedOnnxArtifact).fused == []


def test_an_unfaithful_result_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = rewrite._fold

    def shifted(*arguments: object) -> LinearConv:
        conv = fold(*arguments)  # type: ignore[arg-type]
        return LinearConv.conv(
            conv.kernel.roll(1, 2), conv.bias,
            stride=conv.stride, padding=conv.pads, groups=conv.groups,
        )  # fmt: skip

    monkeypatch.setattr(rewrite, "_fold", shifted)
    with pytest.raises(CheckFailed, match="is not faithful, so it was not written"):
        fuse_onnx(SOURCE, tmp_path / "fused.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_no_output_shows_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the region makes is multiplied by zero: only the tensor at its end tells."""
    source = tmp_path / "a.onnx"
    onnx.save(
        graph("t = Conv(x, swap)  u = Mul(t, half)  r = Relu(u)  z = Mul(r, zero)  y = Add(z, x)"),
        source,
    )
    right = fuse_onnx(source, tmp_path / "b.onnx")
    assert right.proof is not None
    assert [part.name for part in right.proof.regions] == ["u"]
    fold = rewrite._fold
    monkeypatch.setattr(rewrite, "_fold", lambda *given: fold(*given) + fold(*given))
    with pytest.raises(CheckFailed, match="not written: u: "):
        fuse_onnx(source, tmp_path / "c.onnx")
    wrong = fuse_onnx(source, tmp_path / "c.onnx", prove=False)
    assert prove_graphs(source, tmp_path / "c.onnx").passed  # outputs alone
    assert verify_pair(source, tmp_path / "c.onnx").failures  # its sidecar tells where to look
    sidecar_path(wrong.files[0]).unlink()
    assert not verify_pair(source, tmp_path / "c.onnx").failures


def test_costlier_regions_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "a.onnx"
    onnx.save(graph("t = Conv<group=2>(x, deep)  y = Conv(t, swap)"), source)
    assert inspect_onnx(source).fused == ()
    assert len(inspect_onnx(source, allow_costlier=True).fused) == 1
    assert len(fuse_onnx(source, tmp_path / "b.onnx", allow_costlier=True).fused) == 1


def test_files_that_are_no_models(tmp_path: Path) -> None:
    output = tmp_path / "fused.onnx"
    for name, content, cause in (
        ("empty", b"", "is empty"),
        ("text", b"this is no model", "is a text file"),
        ("noise", b"\xff" + os.urandom(99), "is not an ONNX model"),
    ):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=cause):
            fuse_onnx(path, output)
    with pytest.raises(UserError, match="no such file"):
        fuse_onnx(tmp_path / "gone.onnx", output)
    with pytest.raises(UserError, match="is a folder"):
        fuse_onnx(tmp_path, output)
    training = onnx.load(SOURCE)
    training.training_info.add()
    onnx.save(training, tmp_path / "training.onnx")
    with pytest.raises(UserError, match="holds training information"):
        inspect_onnx(tmp_path / "training.onnx")
    assert not output.exists()


def test_the_output_may_not_be_the_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose another output"):
        fuse_onnx(SOURCE, SOURCE)


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    model = onnx.load(SOURCE)
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(UserError, match="NoSuchOperator"):
        fuse_onnx(tmp_path / "broken.onnx", tmp_path / "fused.onnx")
    assert not (tmp_path / "fused.onnx").exists()


def unsorted(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])


def without_output_shape(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("change", [unsorted, without_output_shape])
def test_what_runs_fuses_although_the_checker_refuses_it(
    tmp_path: Path, change: Callable[[ModelProto], None]
) -> None:
    source = tmp_path / "a.onnx"
    model = graph("t = Conv(x, swap)  z = Neg(t)", output="z")
    change(model)
    model.graph.node.add(op_type="Conv", input=["z", "swap"], output=["u"])
    model.graph.node.add(op_type="Neg", input=["u"], output=["y"])
    model.graph.output[0].name = "y"
    onnx.save(model, source)
    result = fuse_onnx(source, tmp_path / "b.onnx")
    assert len(result.fused) >= 1
    assert result.proof is not None
    assert result.proof.passed
    with pytest.raises(UserError, match=r"a\.onnx: does not pass ONNX.*; fuse it with the proof"):
        fuse_onnx(source, tmp_path / "c.onnx", prove=False)
    assert not (tmp_path / "c.onnx").exists()


def test_what_fusion_breaks_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = fuse_onnx_step.write_model

    def damaged(model: OnnxModel, path: Path, external: bool) -> list[Path]:
        model.graph.output[0].name = "gone"
        return write(model, path, external)

    monkeypatch.setattr(fuse_onnx_step, "write_model", damaged)
    with pytest.raises(CheckFailed, match="fused model does not pass ONNX's own checker"):
        fuse_onnx(SOURCE, tmp_path / "b.onnx", prove=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_with_too_few_bytes(tmp_path: Path) -> None:
    model = graph("t = Conv(x, swap)  y = Neg(t)")
    tensor = next(t for t in model.graph.initializer if t.name == "swap")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), "swap"))
    tensor.raw_data = tensor.raw_data[:5]
    source = tmp_path / "a.onnx"
    onnx.save(model, source)
    for check in (inspect_onnx, lambda path: prove_graphs(path, path)):
        with pytest.raises(UserError, match="'swap' holds 5 bytes, and its shape takes 16"):
            check(source)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fuse_onnx(SOURCE, tmp_path / "file" / "fused.onnx")
