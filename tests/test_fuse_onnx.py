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

from repvgg_deploy.artifacts import FusedOnnxArtifact, read_sidecar
from repvgg_deploy.equivalence.graph import prove_graphs
from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.reparam.graph import files as graph_files
from repvgg_deploy.reparam.graph import rewrite
from repvgg_deploy.reparam.linear import LinearConv
from repvgg_deploy.steps.fuse_onnx import fuse_onnx
from repvgg_deploy.steps.inspect import inspect_onnx

from .graphs import graph, operators
from .helpers import GOLDEN

SOURCE = GOLDEN / "official_plain.bn.onnx"
BODY = "t = Conv(x, big)  u = Mul(t, half)  r = Relu(u)  y = Conv(r, other)"


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


def test_costlier_regions_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "a.onnx"
    onnx.save(graph("t = Conv<group=2>(x, deep)  y = Conv(t, swap)"), source)
    assert inspect_onnx(source).fused == ()
    assert len(inspect_onnx(source, allow_costlier=True).fused) == 1
    assert len(fuse_onnx(source, tmp_path / "b.onnx", allow_costlier=True).fused) == 1


def external_model(folder: Path, change: Callable[[ModelProto], None] | None = None) -> Path:
    """A model whose weights of 32 x 2 x 3 x 3 lie in weights.bin."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    model = graph(BODY)
    for name, shape in (("big", (32, 2, 3, 3)), ("other", (8, 32, 1, 1))):
        values = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = folder / "model.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=512,
        convert_attribute=True,
    )  # fmt: skip
    if change is not None:
        model = onnx.load(path, load_external_data=False)
        change(model)
        onnx.save(model, path)
    return path


def test_external_data_stays_external(tmp_path: Path) -> None:
    source = external_model(tmp_path / "from")
    output = tmp_path / "to" / "fused.onnx"
    result = fuse_onnx(source, output)
    data = output.with_name("fused.onnx.data")
    assert result.files == (output, data)
    assert result.artifact is not None
    assert result.artifact.data == ["fused.onnx.data"]
    assert output.stat().st_size < data.stat().st_size
    onnx.checker.check_model(str(output))
    weights = {t.name: t for t in onnx.load(output).graph.initializer}
    before = {t.name: t for t in onnx.load(source).graph.initializer}
    np.testing.assert_array_equal(*(numpy_helper.to_array(w["other"]) for w in (weights, before)))
    folded = numpy_helper.to_array(before["big"]) * np.float32(0.5)
    np.testing.assert_array_equal(numpy_helper.to_array(weights["u.weight"]), folded)
    assert prove_graphs(source, output).passed


def test_a_message_too_large_gets_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_files, "LARGEST_MESSAGE", 100_000)
    output = tmp_path / "fused.onnx"
    result = fuse_onnx(SOURCE, output)
    assert len(result.files) == 2
    assert output.stat().st_size < 100_000
    assert prove_graphs(SOURCE, output).passed


def test_float_data_and_constants_move_out_too(tmp_path: Path) -> None:
    """Weights as lists of floats, and an external tensor in a Constant node."""
    source = external_model(tmp_path / "from")
    model = onnx.load(source, load_external_data=False)
    tensors = {t.name: t for t in model.graph.initializer}
    kernel = onnx.NodeProto(op_type="Constant", output=["other"])
    kernel.attribute.append(onnx.helper.make_attribute("value", tensors["other"]))
    kept = [t for t in model.graph.initializer if t.name != "other"]
    plain = onnx.helper.make_tensor("plain", 1, [300], np.arange(300.0).tolist())
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, plain])
    model.graph.node.insert(0, kernel)
    onnx.save(model, source)
    output = tmp_path / "to" / "fused.onnx"
    fuse_onnx(source, output)
    assert prove_graphs(source, output).passed
    written = {t.name: t for t in onnx.load(output).graph.initializer}
    assert numpy_helper.to_array(written["plain"]).tolist() == list(range(300))


def relocate(where: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = where

    return change


@pytest.mark.parametrize("where", ["../weights.bin", "/etc/passwd", ""])
def test_data_outside_the_folder_is_refused(tmp_path: Path, where: str) -> None:
    source = external_model(tmp_path / "from", relocate(where))
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    with pytest.raises(UserError, match="outside the model's folder"):
        fuse_onnx(source, tmp_path / "fused.onnx")


def test_damaged_external_data(tmp_path: Path) -> None:
    source = external_model(tmp_path / "from")
    data = source.with_name("weights.bin")
    content = data.read_bytes()
    data.write_bytes(content[:100])
    with pytest.raises(UserError, match=r"weights\.bin ends before the data of"):
        fuse_onnx(source, tmp_path / "fused.onnx")
    data.unlink()
    with pytest.raises(UserError, match=r"its data file weights\.bin is missing"):
        fuse_onnx(source, tmp_path / "fused.onnx")
    other = tmp_path / "other.bin"
    other.write_bytes(content)
    data.symlink_to(other)
    with pytest.raises(UserError, match="outside the model's folder"):
        fuse_onnx(source, tmp_path / "fused.onnx")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    output = tmp_path / "fused.onnx"
    for name, content in (("empty", b""), ("text", b"this is no model"), ("noise", os.urandom(99))):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not an ONNX model"):
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


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fuse_onnx(SOURCE, tmp_path / "file" / "fused.onnx")
