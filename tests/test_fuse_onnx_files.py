"""fuse for ONNX files on disk: external data, outputs, what a failure leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from repvgg_deploy import sidecar
from repvgg_deploy.equivalence.graph import prove_graphs
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.reparam.graph import files as graph_files
from repvgg_deploy.steps import fuse_onnx as fuse_onnx_step
from repvgg_deploy.steps.fuse_onnx import fuse_onnx
from repvgg_deploy.steps.inspect import inspect_onnx

from .graphs import graph
from .helpers import GOLDEN

SOURCE = GOLDEN / "official_plain.bn.onnx"
BODY = "t = Conv(x, big)  u = Mul(t, half)  r = Relu(u)  y = Conv(r, other)"


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
    (data,) = output.parent.glob("fused.*.data")
    assert result.files == (output, data)
    assert result.artifact.data == {data.name: sha256_file(data)}
    assert data.name == f"fused.{sha256_file(data)[:12]}.data"
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


def test_links_inside_the_folder(tmp_path: Path) -> None:
    """Hard links are how the caches of package managers share; onnx refuses to read them."""
    source = external_model(tmp_path / "from")
    data = source.with_name("weights.bin")
    os.link(data, tmp_path / "other.bin")
    result = fuse_onnx(source, tmp_path / "a.onnx")
    assert len(result.fused) == 1
    data.rename(source.with_name("moved.bin"))
    data.symlink_to("moved.bin")
    assert len(fuse_onnx(source, tmp_path / "b.onnx").fused) == 1
    assert prove_graphs(source, tmp_path / "b.onnx").passed


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("offset", "abc", "start at byte 'abc'"),
        ("offset", "-5", "start at byte '-5'"),
        ("length", "7", "is said to be 7 bytes, and it takes 2304"),
        ("location", "weights\0.bin", "outside the model's folder"),
    ],
)
def test_damaged_entries_of_external_data(tmp_path: Path, key: str, value: str, said: str) -> None:
    def damage(model: ModelProto) -> None:
        big = next(t for t in model.graph.initializer if t.name == "big")
        next(entry for entry in big.external_data if entry.key == key).value = value

    source = external_model(tmp_path / "from", damage)
    for check in (inspect_onnx, lambda path: prove_graphs(path, path)):
        with pytest.raises(UserError, match=said):
            check(source)


def test_what_was_not_external_stays_inside(tmp_path: Path) -> None:
    """Subgraphs and functions are not touched; only weights of the main graph move."""
    source = external_model(tmp_path / "from")
    model = onnx.load(source, load_external_data=False)
    tensor = numpy_helper.from_array(np.arange(600, dtype=np.float32), "inner")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["spare"], value=tensor))
    onnx.save(model, source)
    fuse_onnx(source, tmp_path / "to.onnx")
    written = onnx.load(tmp_path / "to.onnx", load_external_data=False)
    (constant,) = (n for n in written.graph.node if n.op_type == "Constant")
    assert constant.attribute[0].t == tensor


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_no_data_file_of_another_model_is_touched(tmp_path: Path) -> None:
    """The source's data, and a bystander's, bear the very names that an output might take."""
    first = external_model(tmp_path)
    model = onnx.load(first)
    for name in ("c", "bystander"):
        onnx.save(
            onnx.load(first), tmp_path / f"{name}.onnx", save_as_external_data=True,
            location="b.onnx.data" if name == "c" else "b.data", size_threshold=512,
        )  # fmt: skip
    before = snapshot(tmp_path)
    assert fuse_onnx(tmp_path / "c.onnx", tmp_path / "b.onnx").artifact.data
    assert snapshot(tmp_path).items() >= before.items()
    assert onnx.load(tmp_path / "c.onnx").graph == model.graph


def test_data_of_an_earlier_output_goes(tmp_path: Path) -> None:
    """And nothing else: not what a model of another name uses, not the source's."""
    one = external_model(tmp_path / "one")
    output = tmp_path / "b.onnx"
    (old,) = fuse_onnx(one, output).artifact.data
    (tmp_path / "b.000000000000.data").write_text("not in the sidecar")
    two = external_model(tmp_path / "two", lambda model: rename(model, "half", 0.25))
    (new,) = fuse_onnx(two, output).artifact.data
    assert new != old
    assert sorted(path.name for path in tmp_path.glob("*.data")) == sorted(
        [new, "b.000000000000.data"]
    )
    (tmp_path / "c.onnx").write_bytes(output.read_bytes())
    fuse_onnx(tmp_path / "c.onnx", output)  # its weights are those of the model it replaces
    assert onnx.load(tmp_path / "c.onnx").graph.initializer


def rename(model: ModelProto, name: str, value: float) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.array([value], np.float32), name))


@pytest.mark.parametrize("moment", ["hash", "sidecar", "model"])
def test_a_failure_leaves_the_old_output_whole(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "to" / "b.onnx"
    fuse_onnx(external_model(tmp_path / "one"), output)
    before = snapshot(output.parent)
    two = external_model(tmp_path / "two", lambda model: rename(model, "half", 0.25))
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if moment == "model" and Path(target) == output:
            raise KeyboardInterrupt
        return replace(self, target)

    def stopped(path: Path) -> str:
        if path == two:
            raise KeyboardInterrupt
        return sha256_file(path)

    monkeypatch.setattr(Path, "replace", interrupted)
    if moment == "hash":
        monkeypatch.setattr(fuse_onnx_step, "sha256_file", stopped)
    if moment == "sidecar":
        monkeypatch.setattr(sidecar, "to_json", lambda data: 1 / 0)
    with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
        fuse_onnx(two, output)
    assert snapshot(output.parent) == before
    assert not [path for path in output.parent.iterdir() if path.is_dir()]


def test_a_model_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.onnx"
    source.write_bytes(SOURCE.read_bytes())

    def refuse(*given: object, **options: object) -> ModelProto:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))

    monkeypatch.setattr(onnx, "load", refuse)
    said = r"a\.onnx: cannot be read: Permission denied; check its permissions\."
    with pytest.raises(UserError, match=said):
        fuse_onnx(source, tmp_path / "b.onnx")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int = 0) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("tempfile._os.mkdir", refuse)
    said = r"/b\.onnx: cannot be written: permission denied; choose a folder that you may write to"
    with pytest.raises(UserError, match=said):
        fuse_onnx(SOURCE, tmp_path / "b.onnx")


@pytest.mark.parametrize("beside", [None, "[]", '{"file": "b.onnx"}', "text"])
def test_a_model_of_others_is_not_replaced(tmp_path: Path, beside: str | None) -> None:
    output = tmp_path / "b.onnx"
    output.write_text("mine")
    if beside is not None:
        (tmp_path / "b.onnx.json").write_text(beside)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"b\.onnx: exists and was not made by fuse; choose"):
        fuse_onnx(SOURCE, output)
    assert snapshot(tmp_path) == before


def test_folders_in_the_way(tmp_path: Path) -> None:
    source = external_model(tmp_path / "from")
    (tmp_path / "a.onnx").mkdir()
    (tmp_path / "b.onnx.json").mkdir()
    for name in ("a.onnx", "b.onnx"):
        with pytest.raises(UserError, match=r"(a\.onnx|b\.onnx\.json): is a folder"):
            fuse_onnx(source, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx.json", "from"]


@pytest.mark.parametrize("name", ["config", "f.json", "f.onnxtxt", "newdir/", "."])
def test_outputs_have_to_end_in_onnx(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(UserError, match=r"no name for an ONNX model; give one that ends in \.onnx"):
        fuse_onnx(SOURCE, tmp_path / name)
    assert snapshot(tmp_path) == {"config.json": b"mine"}


def test_the_ending_may_be_in_capitals(tmp_path: Path) -> None:
    assert fuse_onnx(SOURCE, tmp_path / "B.ONNX").fused
    assert inspect_onnx(tmp_path / "B.ONNX").fused == ()
    assert prove_graphs(SOURCE, tmp_path / "B.ONNX").passed
