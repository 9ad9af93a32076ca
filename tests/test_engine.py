"""export --trt, with the real TensorRT-RTX builder, which needs no GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from repvgg_deploy.engine import flavour
from repvgg_deploy.engine.flavour import choose_flavour
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.sidecar import sidecar_path
from repvgg_deploy.workspace import ModelFolder

from .conftest import Cli
from .helpers import golden
from .int8 import write_int8
from .qdq import quantized

trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx, which this platform lacks")
ALL = ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"]
FOLDER = Path("engines/ckpt")


@pytest.fixture
def fused(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A fused model, on a machine that has no GPU."""
    monkeypatch.setattr(flavour, "this_gpu", lambda: None)
    assert cli("fuse", checkpoint).code == 0
    return cli


def record_of(engine: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads(engine.with_name(f"{engine.name}.json").read_text())
    return data


def test_half_precision_for_every_target(fused: Cli, checkpoint: Path) -> None:
    result = fused("export", "--onnx", "--trt", "fp16", "--size", "32", "--json")
    assert result.code == 0, result.err
    engine, model = FOLDER / "fp16.rtx.engine", FOLDER / "fp16.onnx"
    record = record_of(engine)
    assert record == {"schema": 3, **json.loads(result.out)[-1]}
    assert record["sha256"] == sha256_file(engine)
    assert record["source"] == {"path": "fp16.onnx", "sha256": sha256_file(model)}
    assert record["lineage"] == [
        {"path": "fused.safetensors", "sha256": sha256_file(FOLDER / "fused.safetensors")},
        {"path": str(checkpoint.resolve()), "sha256": sha256_file(checkpoint)},
    ]
    assert (record["flavour"], record["precision"]) == ("rtx", "fp16")
    assert (record["version"], record["gpu"], record["inspected"]) == (trt.__version__, None, None)
    assert set(record["targets"]) >= set(ALL)  # type: ignore[call-overload]
    assert record["profiles"] == [
        {"input": {"min": [1, 3, 32, 32], "opt": [32, 3, 32, 32], "max": [128, 3, 32, 32]}}
    ]
    assert record["inputs"] == [{"name": "input", "dtype": "fp16", "shape": [-1, 3, 32, 32]}]
    assert record["outputs"] == [{"name": "logits", "dtype": "fp16", "shape": [-1, 5]}]
    assert [a["precision"] for a in json.loads(result.out)] == ["fp32", "fp16", "fp16"]
    assert engine.read_bytes()[:1] != b"{"  # plain engine bytes, no header of ours
    assert "built, not run" in result.err


def test_every_layer_is_of_the_precision_asked_for(fused: Cli) -> None:
    for precision in ("fp32", "fp16", "bf16"):
        assert fused("export", "--trt", precision, "--size", "32").code == 0
        rows = record_of(FOLDER / f"{precision}.rtx.engine")["layers"]
        assert isinstance(rows, list)
        nodes = onnx.load(FOLDER / f"{precision}.onnx").graph.node
        weighted = [n.name for n in nodes if n.op_type in ("Conv", "Gemm")]
        assert [row["name"] for row in rows] == weighted
        assert {row[side] for row in rows for side in ("input", "weight", "output")} == {precision}


@pytest.mark.parametrize(
    ("precision", "missing"), [("fp32", {"sm75"}), ("fp16", set()), ("bf16", {"sm75"})]
)
def test_targets_that_lack_the_precision_are_left_out(
    fused: Cli, precision: str, missing: set[str]
) -> None:
    result = fused("export", "--trt", precision, "--size", "32", "--profile", "2,4,8", "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)[-1]
    assert set(ALL) - set(record["targets"]) == missing
    assert record["profiles"][0]["input"]["opt"] == [4, 3, 32, 32]


def test_named_targets_and_a_fixed_batch(fused: Cli) -> None:
    arguments = ("--size", "32", "--target", "SM86,8.9,sm_86", "--batch", "4", "--json")
    result = fused("export", "--trt", "fp16", *arguments)
    assert result.code == 0, result.err
    record = json.loads(result.out)[-1]
    assert record["targets"] == ["sm86", "sm89"]
    assert record["profiles"] == [{"input": {k: [4, 3, 32, 32] for k in ("min", "opt", "max")}}]


def test_several_profiles(fused: Cli) -> None:
    profiles = ("--profile", "1,1,1", "--profile", "8,16,32")
    result = fused("export", "--trt", "fp16", "--size", "32", *profiles, "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)[-1]["profiles"]
    assert [profile["input"]["max"][0] for profile in made] == [1, 32]


def test_squeeze_excitation_builds(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavour, "this_gpu", lambda: None)
    cli("fuse", golden("repvggplus_pse"))
    assert cli("export", "--trt", "fp16", "--size", "64", "--target", "sm89").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trt", "fp16", "--target", "sm90"], "target sm90: TensorRT-RTX"),
        (["--trt", "fp32", "--target", "sm75"], "no float32 matrix product"),
        (["--trt", "bf16", "--target", "sm75"], "no bf16"),
        (["--trt", "fp8", "--target", "sm86"], "no fp8"),
        (["--trt", "fp16", "--version-compatible"], "--version-compatible: a TensorRT-RTX"),
        (["--trt", "fp16", "--hardware-compatible"], "--hardware-compatible: a TensorRT-RTX"),
        (["--trt", "fp16", "--timing-cache", "t.cache"], "--timing-cache: TensorRT-RTX"),
        (["--trt", "fp16", "--flavour", "tensorrt"], "TensorRT is not installed"),
        (["--trt", "int8"], "int8.onnx: no such file; --trt int8 takes a Q/DQ ONNX model"),
        (["--trt", "bf16", "--opset", "21"], "no bf16 convolution before 22"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    fused: Cli, arguments: list[str], sentence: str
) -> None:
    result = fused("export", *arguments)
    assert result.code == 1
    assert sentence in result.err
    assert len(result.err.strip().split("\n")) == 1
    assert not list(FOLDER.glob("*.engine*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--onnx", "--workspace", "4G"], "--workspace has no effect here"),
        (["--onnx", "--flavour", "rtx"], "--flavour has no effect here"),
        (["--trt", "fp16", "--batch", "4", "--profile", "1,2,3"], "--profile has no effect here"),
        (["--trt", "int8", "--size", "32"], "--size has no effect here"),
        (["--trt", "int8", "--opset", "17"], "--opset has no effect here"),
        (["--trt", "fp16", "--tf32"], "--tf32/--no-tf32 has no effect here"),
        (["--trt", "fp16", "--name", "x"], "--name has no effect here"),
        (["--trt", "fp16", "--profile", "8,4,2"], "no profile; write three batch sizes"),
        (["--trt", "fp16", "--workspace", "lots"], "no memory size; write 512M"),
        (["model.onnx"], "give --trt with the precision that ONNX is of"),
        (["model.onnx", "--trt", "fp16", "--opset", "17"], "--opset has no effect here"),
    ],
)
def test_usage(cli: Cli, arguments: list[str], sentence: str) -> None:
    result = cli("export", *arguments)
    assert result.code == 2
    assert sentence in result.err


@pytest.mark.parametrize(
    ("arguments", "ours", "theirs"),
    [
        (["--workspace", "1M"], "no kernel within the workspace", "no tactics to implement"),
        (["--refittable"], "name one --target", "sm_vers_.size() == 1"),
        (["--refittable", "--target", "sm86"], "needs an NVIDIA GPU", "CUDA_SUCCESS"),
    ],
)
def test_the_builders_words_follow_ours(
    fused: Cli, arguments: list[str], ours: str, theirs: str
) -> None:
    assert fused("export", "--trt", "fp16", "--size", "32").code == 0
    before = (FOLDER / "fp16.rtx.engine").read_bytes()
    result = fused("export", "--trt", "fp16", "--size", "32", *arguments)
    assert result.code == 1
    last = result.err.strip().split("\n")[-1]
    assert ours in last
    assert 'TensorRT said: "' in last
    assert theirs in last
    assert (FOLDER / "fp16.rtx.engine").read_bytes() == before
    assert not list(FOLDER.glob(".*"))


def test_the_build_log_holds_all_even_of_a_failed_build(fused: Cli) -> None:
    log = ("--build-log", "build.log")
    assert fused("export", "--trt", "fp16", "--size", "32", "--workspace", "1M", *log).code == 1
    assert "no tactics to implement" in Path("build.log").read_text()
    assert fused("export", "--trt", "fp16", "--size", "32", *log).code == 0
    lines = Path("build.log").read_text().splitlines()
    assert "no tactics" not in "\n".join(lines)
    assert any(line.split()[2] == "verbose" for line in lines)


def test_a_log_that_cannot_be_written_is_found_before_the_build(fused: Cli) -> None:
    Path("file").touch()
    result = fused("export", "--trt", "fp16", "--size", "32", "--build-log", "file/build.log")
    assert result.code == 1
    assert "file: cannot be written: a file stands where a folder is needed" in result.err
    assert not list(FOLDER.glob("*.engine*"))


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (FOLDER / "fp16.rtx.engine", "is another file of this build"),
        (FOLDER / "fp16.rtx.engine.json", "is another file of this build"),
        (FOLDER / "fp16.onnx", "is another file of this build"),
        (FOLDER / "fused.safetensors", "holds something else than a build log"),
    ],
)
def test_a_log_takes_no_other_files_place(fused: Cli, log: Path, sentence: str) -> None:
    before = log.read_bytes() if log.exists() else b""
    result = fused("export", "--trt", "fp16", "--size", "32", "--build-log", log)
    assert result.code == 1
    assert f"{log}: {sentence}" in result.err
    assert log.name == "fp16.onnx" or (log.read_bytes() if log.exists() else b"") == before
    assert not list(FOLDER.glob("*.engine*"))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("head", ["fp32", "fp16"])
def test_quantized_models_of_the_workspace(fused: Cli, kind: str, head: str) -> None:
    assert fused("export", "--onnx", "--size", "32").code == 0
    onnx.save(quantized(onnx.load(FOLDER / "fp32.onnx"), kind, head), FOLDER / f"{kind}.onnx")
    result = fused("export", "--trt", kind, "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)[-1]
    convolutions = [row for row in record["layers"] if row["kind"] == "convolution"]
    assert {(r["input"], r["weight"], r["output"]) for r in convolutions} == {(kind, kind, head)}
    assert "6 of 7 weighted layers" in result.err
    lacking = {"sm75"} if head == "fp32" else set()
    lacking |= {"sm75", "sm80", "sm86"} if kind == "fp8" else set()
    assert set(ALL) - set(record["targets"]) == lacking


def test_a_quantized_model_of_other_weights_is_refused(fused: Cli) -> None:
    assert fused("export", "--onnx", "--size", "32").code == 0
    sidecar = sidecar_path(write_int8(ModelFolder(FOLDER)))
    record = json.loads(sidecar.read_text())
    record["source"]["sha256"] = "0" * 64
    sidecar.write_text(json.dumps(record))
    result = fused("export", "--trt", "int8")
    assert result.code == 1
    assert "int8.onnx: was made from other weights" in result.err


class TestOwnOnnx:
    """``export MODEL.onnx --trt ...``"""

    @pytest.fixture
    def own(self, fused: Cli) -> Cli:
        assert fused("export", "--onnx", "--fp16", "--size", "32").code == 0
        Path("elsewhere").mkdir()
        (FOLDER / "fp16.onnx").rename("elsewhere/net.onnx")
        (FOLDER / "fp16.onnx.json").unlink()
        return fused

    def test_goes_to_a_folder_of_its_name(self, own: Cli) -> None:
        result = own("export", "elsewhere/net.onnx", "--trt", "fp16")
        assert result.code == 0, result.err
        record = record_of(Path("engines/net/net.rtx.engine"))
        assert record["source"] == {
            "path": str(Path("elsewhere/net.onnx").resolve()),
            "sha256": sha256_file(Path("elsewhere/net.onnx")),
        }
        assert record["lineage"] == []
        assert own("export", "elsewhere/net.onnx", "--trt", "fp16").code == 0  # again, in its place

    def test_of_the_same_name_are_not_mixed_up(self, own: Cli) -> None:
        assert own("export", "elsewhere/net.onnx", "--trt", "fp16").code == 0
        Path("net.onnx").write_bytes(Path("elsewhere/net.onnx").read_bytes())
        result = own("export", "net.onnx", "--trt", "fp16")
        assert result.code == 1
        assert "was built from another model" in result.err
        assert own("export", "net.onnx", "--trt", "fp16", "--name", "mine").code == 0
        assert Path("engines/mine/net.rtx.engine").exists()

    def test_a_name_has_to_be_one(self, own: Cli) -> None:
        result = own("export", "elsewhere/net.onnx", "--trt", "fp16", "--name", "")
        assert result.code == 1
        assert "'' is no model name" in result.err

    def test_words_of_a_model_do_not_pass_for_ours(self, own: Cli) -> None:
        model = onnx.load("elsewhere/net.onnx")
        next(node for node in model.graph.node if node.op_type == "Conv").name = "a\nall is well"
        onnx.save(model, "net.onnx")
        result = own("export", "net.onnx", "--trt", "fp32")
        assert result.code == 3
        assert "a\\nall is well reads fp16" in result.err

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_is_not_waited_for(self, own: Cli) -> None:
        os.mkfifo("pipe.onnx")
        result = own("export", "pipe.onnx", "--trt", "fp32")
        assert result.code == 1
        assert "pipe.onnx: is a device or a pipe; give the path of an ONNX model" in result.err

    def test_is_not_mixed_into_a_checkpoints_folder(self, own: Cli) -> None:
        Path("elsewhere/net.onnx").rename("elsewhere/ckpt.onnx")
        result = own("export", "elsewhere/ckpt.onnx", "--trt", "fp16")
        assert result.code == 1
        assert "engines/ckpt: holds a fused checkpoint; name the folder" in result.err

    def test_has_to_be_what_its_sidecar_describes(self, own: Cli) -> None:
        assert own("export", "--onnx", "--size", "32").code == 0
        model = FOLDER / "fp32.onnx"
        model.write_bytes(model.read_bytes() + b"\x0a\x00")  # still an ONNX model
        result = own("export", model, "--trt", "fp32")
        assert result.code == 1
        assert "fp32.onnx: is not the file that fp32.onnx.json describes" in result.err

    def test_a_failed_build_leaves_no_empty_folder(self, own: Cli) -> None:
        assert own("export", "elsewhere/net.onnx", "--trt", "fp16", "--workspace", "1M").code == 1
        assert not Path("engines/net").exists()

    def test_inside_the_workspace_stays_in_its_folder(self, own: Cli) -> None:
        Path("elsewhere/net.onnx").rename(FOLDER / "net.onnx")
        assert own("export", FOLDER / "net.onnx", "--trt", "fp16").code == 0
        assert (FOLDER / "net.rtx.engine").exists()

    def test_an_engine_of_a_users_own_model_is_not_replaced(self, own: Cli) -> None:
        Path("elsewhere/net.onnx").rename("elsewhere/fp16.onnx")
        assert own("export", "elsewhere/fp16.onnx", "--trt", "fp16", "--name", "ckpt").code == 0
        before = (FOLDER / "fp16.rtx.engine").read_bytes()
        result = own("export", "--trt", "fp16", "--size", "32")
        assert result.code == 1
        assert "was built from another model" in result.err
        assert (FOLDER / "fp16.rtx.engine").read_bytes() == before

    @pytest.mark.parametrize("asked", ["fp32", "bf16", "int8", "fp8"])
    def test_of_another_precision_fails_the_check(self, own: Cli, asked: str) -> None:
        result = own("export", "elsewhere/net.onnx", "--trt", asked)
        assert result.code == 3
        assert f"--trt {asked} was asked for, but its network is not of it: " in result.err
        assert not Path("engines/net").exists() or not list(Path("engines/net").iterdir())

    def test_of_a_fixed_batch_takes_no_profile(self, own: Cli) -> None:
        assert own("export", "--onnx", "--size", "32", "--batch", "2").code == 0
        result = own("export", FOLDER / "fp32.onnx", "--trt", "fp32", "--profile", "1,2,4")
        assert result.code == 1
        assert "--profile has no effect: the model takes [2, 3, 32, 32]" in result.err


@pytest.mark.parametrize(
    ("asked", "installed", "gpu", "chosen"),
    [
        ("auto", {"tensorrt", "tensorrt_rtx"}, True, "tensorrt"),
        ("auto", {"tensorrt", "tensorrt_rtx"}, False, "rtx"),
        ("auto", {"tensorrt_rtx"}, True, "rtx"),
        ("auto", {"tensorrt"}, True, "tensorrt"),
        ("auto", {"tensorrt"}, False, r"repvgg-deploy\[rtx\]"),
        ("auto", set(), False, r"repvgg-deploy\[rtx\]"),
        ("rtx", {"tensorrt", "tensorrt_rtx"}, True, "rtx"),
        ("rtx", {"tensorrt"}, True, "TensorRT-RTX is not installed"),
        ("tensorrt", {"tensorrt", "tensorrt_rtx"}, True, "tensorrt"),
        ("tensorrt", {"tensorrt", "tensorrt_rtx"}, False, "CUDA finds none here"),
        ("tensorrt", {"tensorrt_rtx"}, True, "TensorRT is not installed"),
    ],
)
def test_which_tensorrt(
    monkeypatch: pytest.MonkeyPatch, asked: str, installed: set[str], gpu: bool, chosen: str
) -> None:
    module = SimpleNamespace(__version__="1.0")
    found = Gpu("NVIDIA L4", "sm89", 24 * 10**9, "13.0") if gpu else None
    monkeypatch.setattr(flavour, "available", lambda name: module if name in installed else None)
    monkeypatch.setattr(flavour, "this_gpu", lambda: found)
    if chosen in flavour.MODULES:
        assert choose_flavour(asked).name == chosen
    else:
        with pytest.raises(UserError, match=chosen):
            choose_flavour(asked)
