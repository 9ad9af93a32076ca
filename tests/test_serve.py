"""repvgg-deploy serve: a Triton model repository, read back by Triton's own schema."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from repvgg_deploy.artifacts import OnnxArtifact, Source
from repvgg_deploy.data.demo import demo_checkpoint
from repvgg_deploy.data.fashion_mnist import CLASSES
from repvgg_deploy.files import sha256_file
from repvgg_deploy.serving.triton import repository
from repvgg_deploy.sidecar import sidecar_path, store
from repvgg_deploy.steps.export import check_onnx
from repvgg_deploy.steps.fuse import fuse_checkpoint
from repvgg_deploy.steps.weights import Reading
from repvgg_deploy.workspace import ModelFolder, Workspace

from .conftest import Cli
from .helpers import training_state
from .triton import SCHEMA, profile, read_config, write_engine

REPO = Path("repo")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused model with both ONNX models, made once."""
    folder = tmp_path_factory.mktemp("workspace")
    torch.save(training_state(), folder / "net.pth")
    engines = Workspace(folder / "engines")
    made = fuse_checkpoint(folder / "net.pth", engines, reading=Reading(None, None, None)).folder
    for precision in ("fp32", "fp16"):
        check_onnx(made, precision=precision, opset=17, image_size=(32, 32))()
    return folder / "engines"


@pytest.fixture
def folder(cli: Cli, workspace: Path) -> ModelFolder:
    """A copy of it as ``engines/`` in the empty folder where ``cli`` runs."""
    shutil.copytree(workspace, "engines")
    return Workspace(Path("engines")).model()


def only_engines(folder: ModelFolder) -> None:
    for path in folder.onnx_files():
        path.unlink()


def test_onnx_models(cli: Cli, folder: ModelFolder) -> None:
    result = cli("serve", "--triton", REPO, "--json")
    assert result.code == 0, result.err
    assert sorted(p.name for p in REPO.iterdir()) == ["net_fp16_onnx", "net_fp32_onnx"]
    config = read_config(REPO / "net_fp32_onnx")
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 128
    (tensor,) = config.input
    assert (tensor.name, tensor.data_type, tensor.dims) == ("input", SCHEMA.TYPE_FP32, [3, 32, 32])
    (tensor,) = config.output
    assert (tensor.name, tensor.data_type, tensor.dims) == ("logits", SCHEMA.TYPE_FP32, [5])
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (group.KIND_AUTO, 1, [])
    assert [sample.batch_size for sample in config.model_warmup] == [1]
    assert not config.dynamic_batching.preferred_batch_size
    assert config.version_policy.latest.num_versions == 1
    assert read_config(REPO / "net_fp16_onnx").input[0].data_type == SCHEMA.TYPE_FP16
    for precision in ("fp32", "fp16"):
        copied = REPO / f"net_{precision}_onnx" / "1" / "model.onnx"
        assert sha256_file(copied) == sha256_file(folder.onnx(precision))
        assert f"{copied}  " in result.err
    written = json.loads(result.out)
    assert [(m["name"], m["version"], m["changed"]) for m in written["models"]] == [
        ("net_fp32_onnx", 1, True),
        ("net_fp16_onnx", 1, True),
    ]
    assert "written, not loaded" in result.err


def test_an_engine(cli: Cli, folder: ModelFolder) -> None:
    engine = write_engine(folder)
    result = cli(
        "serve", "--triton", REPO, "--artifact", engine.name, "--queue-delay", 200,
        "--instances", 2,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert [p.name for p in REPO.iterdir()] == ["net_fp16_tensorrt"]
    config = read_config(REPO / "net_fp16_tensorrt")
    assert config.max_batch_size == 128
    assert config.dynamic_batching.preferred_batch_size == [32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (group.KIND_GPU, 2, [])
    assert [sample.batch_size for sample in config.model_warmup] == [1, 32]
    assert not config.cc_model_filenames
    plan = REPO / "net_fp16_tensorrt" / "1" / "model.plan"
    assert plan.read_bytes() == engine.read_bytes()
    assert "built by TensorRT 10.13.3.9 on linux-x86_64" in result.err


def test_several_profiles_are_all_used(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, profiles=[profile(1, 1, 8), profile(8, 32, 64)])
    assert cli("serve", "--triton", REPO).code == 0
    config = read_config(REPO / "net_fp16_tensorrt")
    assert config.max_batch_size == 64
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.dynamic_batching.preferred_batch_size == [32]  # one image is no batch to wait for
    assert [sample.batch_size for sample in config.model_warmup] == [1, 32]


def test_engines_for_several_gpus_become_one_model(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, "fp16.a10.engine", targets=["sm86"])
    write_engine(folder, "fp16.t4.engine", targets=["sm75"])
    write_engine(folder, "fp16.b.engine", targets=["sm120", "sm121"])
    result = cli("serve", "--triton", REPO, "--json")
    assert result.code == 0, result.err
    config = read_config(REPO / "net_fp16_tensorrt")
    version = REPO / "net_fp16_tensorrt" / "1"
    content = {key: (version / file).read_text() for key, file in config.cc_model_filenames.items()}
    assert content == {
        "8.6": "fp16.a10.engine",
        "7.5": "fp16.t4.engine",
        "12.0": "fp16.b.engine",
        "12.1": "fp16.b.engine",
    }
    assert not (version / "model.plan").exists()  # any other GPU is told that there is no file
    model = json.loads(result.out)["models"][-1]
    assert model["artifacts"] == ["fp16.a10.engine", "fp16.b.engine", "fp16.t4.engine"]
    assert len(model["files"]) == 3


def test_an_engine_for_any_gpu_is_the_default(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, "fp16.a10.engine")
    write_engine(folder, "fp16.any.engine", options={"hardware_compatible": True})
    assert cli("serve", "--triton", REPO).code == 0
    version = REPO / "net_fp16_tensorrt" / "1"
    assert (version / "model.plan").read_text() == "fp16.any.engine"
    config = read_config(REPO / "net_fp16_tensorrt")
    assert list(config.cc_model_filenames) == ["8.6"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"targets": ["sm86"]}, "would both be net_fp16_tensorrt for compute capability 8.6"),
        ({"version": "10.16.1.11"}, "differ in version"),
        ({"profiles": [profile(1, 8, 16)]}, "differ in profiles"),
        ({"outputs": [{"name": "y", "dtype": "fp16", "shape": [-1, 5]}]}, "differ in outputs"),
    ],
)
def test_engines_that_cannot_be_one_model(
    cli: Cli, folder: ModelFolder, changes: dict[str, object], sentence: str
) -> None:
    write_engine(folder, "fp16.a.engine")
    write_engine(folder, "fp16.b.engine", **{"targets": ["sm89"], **changes})
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert sentence in result.err
    assert "choose with --artifact" in result.err
    assert not REPO.exists()
    assert cli("serve", "--triton", REPO, "--artifact", "fp16.b.engine").code == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_part_of_the_shape(cli: Cli, folder: ModelFolder, batch: int) -> None:
    check_onnx(folder, precision="fp32", opset=17, image_size=(32, 32), batch=batch)()
    folder.onnx("fp16").unlink()
    assert cli("serve", "--triton", REPO).code == 0
    config = read_config(REPO / "net_fp32_onnx")
    assert config.max_batch_size == 0
    assert config.input[0].dims == [batch, 3, 32, 32]
    assert config.output[0].dims == [batch, 5]
    assert not config.HasField("dynamic_batching")
    (sample,) = config.model_warmup
    assert (sample.batch_size, sample.inputs["input"].dims) == (1, [batch, 3, 32, 32])


@pytest.mark.parametrize("shape", [-1, 4])
@pytest.mark.parametrize("batch", [1, 4])
def test_an_engine_of_one_batch_size(cli: Cli, folder: ModelFolder, shape: int, batch: int) -> None:
    """A profile without a choice is a fixed batch, whatever the engine's shape says."""
    first = -1 if shape == -1 else batch
    write_engine(
        folder,
        inputs=[{"name": "input", "dtype": "fp16", "shape": [first, 3, 32, 32]}],
        outputs=[{"name": "logits", "dtype": "fp16", "shape": [first, 5]}],
        profiles=[profile(batch, batch, batch)] if shape == -1 else [],
    )
    only_engines(folder)
    assert cli("serve", "--triton", REPO).code == 0
    config = read_config(REPO / "net_fp16_tensorrt")
    assert (config.max_batch_size, config.output[0].dims) == (0, [batch, 5])


def test_batches_that_no_profile_runs_are_named(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, profiles=[profile(4, 8, 8), profile(10, 16, 16), profile(20, 20, 20)])
    result = cli("serve", "--triton", REPO)
    assert result.code == 0
    assert "runs no batch of 1 to 3 or 9 or 17 to 19" in result.err
    assert [s.batch_size for s in read_config(REPO / "net_fp16_tensorrt").model_warmup] == [
        4, 8, 16, 20,
    ]  # fmt: skip


def test_a_smaller_largest_batch(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder)
    assert cli("serve", "--triton", REPO, "--max-batch", 16).code == 0
    for name in ("net_fp32_onnx", "net_fp16_tensorrt"):
        config = read_config(REPO / name)
        assert config.max_batch_size == 16
        assert not config.dynamic_batching.preferred_batch_size
    write_engine(folder, batch=(1, 4, 8))
    assert cli("serve", "--triton", REPO, "--max-batch", 16).code == 0
    assert read_config(REPO / "net_fp16_tensorrt").max_batch_size == 8
    assert cli("serve", "--triton", REPO, "--max-batch", 1).code == 0
    config = read_config(REPO / "net_fp16_tensorrt")
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    write_engine(folder, batch=(4, 8, 16))
    result = cli("serve", "--triton", REPO, "--max-batch", 2)
    assert result.code == 1
    assert "runs no batch below 4" in result.err


@pytest.mark.parametrize("option", ["--max-batch", "--queue-delay"])
def test_limits_of_a_fixed_batch_are_refused(cli: Cli, folder: ModelFolder, option: str) -> None:
    write_engine(folder, batch=(1, 1, 1))
    result = cli("serve", "--triton", REPO, "--artifact", "fp16.tensorrt.engine", option, 8)
    assert result.code == 1
    assert f"leave out {option}" in result.err or f"and {option}" in result.err
    assert not REPO.exists()


def test_a_delay_without_a_batch_to_fill_is_refused(cli: Cli, folder: ModelFolder) -> None:
    result = cli("serve", "--triton", REPO, "--max-batch", 1, "--queue-delay", 5)
    assert result.code == 1
    assert "leave out --queue-delay, or allow a larger batch" in result.err
    assert not REPO.exists()


def test_rtx_engines_are_left_out_and_said_so(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, "fp16.rtx.engine", flavour="rtx", gpu=None)
    result = cli("serve", "--triton", REPO, "--json")
    assert result.code == 0
    assert "left out: fp16.rtx.engine is a TensorRT-RTX engine" in result.err
    assert [left["file"] for left in json.loads(result.out)["left_out"]] == ["fp16.rtx.engine"]
    assert sorted(p.name for p in REPO.iterdir()) == ["net_fp16_onnx", "net_fp32_onnx"]
    named = cli("serve", "--triton", REPO, "--artifact", "fp16.rtx.engine")
    assert named.code == 1
    assert "fp16.rtx.engine: is a TensorRT-RTX engine" in named.err
    only_engines(folder)
    alone = cli("serve", "--triton", REPO)
    assert alone.code == 1
    assert "holds nothing that Triton loads" in alone.err


def test_notes_before_it_is_loaded(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, proof=None, options={"version_compatible": True})
    err = cli("serve", "--triton", REPO).err
    assert "fp16.tensorrt.engine never ran" in err
    assert "--backend-config=tensorrt,version-compatible=true" in err


def test_a_bfloat16_onnx_model(cli: Cli, folder: ModelFolder) -> None:
    replace_onnx(folder, element=onnx.TensorProto.BFLOAT16)
    result = cli("serve", "--triton", REPO)
    assert result.code == 0, result.err
    assert "bfloat16 inputs from release 26.03 on" in result.err
    assert read_config(REPO / "net_fp32_onnx").input[0].data_type == SCHEMA.TYPE_BF16


def test_labels(cli: Cli, folder: ModelFolder) -> None:
    names = ["cat", "dög", 'a "quoted" one', "d: e", "f"]
    Path("names.txt").write_text("\ufeff" + "\r\n".join(names) + "\r\n", encoding="utf-8")
    result = cli("serve", "--triton", REPO, "--labels", "names.txt", "--json")
    assert result.code == 0, result.err
    for name in ("net_fp32_onnx", "net_fp16_onnx"):
        assert read_config(REPO / name).output[0].label_filename == "labels.txt"
        written = (REPO / name / "labels.txt").read_bytes()
        assert written == ("\n".join(names) + "\n").encode()
    assert {model["labels"] for model in json.loads(result.out)["models"]} == {5}
    assert "net_fp16_onnx: Triton names classes of float32 outputs only" in result.err
    assert "net_fp32_onnx: Triton names" not in result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_labels_from_a_pipe_are_not_waited_for(cli: Cli, folder: ModelFolder) -> None:
    os.mkfifo("pipe")
    result = cli("serve", "--triton", REPO, "--labels", "pipe")
    assert result.code == 1
    assert "pipe: is no file; give one class name a line" in result.err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"a\nb\nc\nd\n", "holds 4 names, but fp32.onnx has 5 classes"),
        (b"a\nb\n\nd\ne\n", "line 3 is empty"),
        (b"", "line 1 is empty"),
        (b"\xff\xfe", "is no UTF-8 text"),
        (None, "no such file"),
    ],
)
def test_labels_that_do_not_fit(
    cli: Cli, folder: ModelFolder, text: bytes | None, sentence: str
) -> None:
    if text is not None:
        Path("names.txt").write_bytes(text)
    result = cli("serve", "--triton", REPO, "--labels", "names.txt")
    assert result.code == 1
    assert sentence in result.err
    assert not REPO.exists()


@pytest.mark.parametrize(
    "outputs",
    [
        [{"name": "y", "dtype": "fp16", "shape": [-1, 5, 7, 7]}],
        [{"name": n, "dtype": "fp16", "shape": [-1, 5]} for n in ("y", "z")],
    ],
)
def test_outputs_that_have_no_labels(
    cli: Cli, folder: ModelFolder, outputs: list[dict[str, object]]
) -> None:
    write_engine(folder, outputs=outputs)
    Path("names.txt").write_text("a\nb\nc\nd\ne\n")
    arguments = ("serve", "--triton", REPO, "--artifact", "fp16.tensorrt.engine")
    result = cli(*arguments, "--labels", "names.txt")
    assert result.code == 1
    assert "labels are for one output [N, classes]" in result.err
    assert cli(*arguments).code == 0


def test_a_fixed_batch_has_no_labels(cli: Cli, folder: ModelFolder) -> None:
    """Triton takes the whole output of a fixed batch for one answer, and would name it wrongly."""
    write_engine(folder, batch=(4, 4, 4))
    Path("names.txt").write_text("a\nb\nc\nd\ne\n")
    arguments = ("serve", "--triton", REPO, "--labels", "names.txt", "--artifact")
    assert cli(*arguments, "fp16.tensorrt.engine").code == 1
    write_engine(folder, batch=(1, 1, 1))
    assert cli(*arguments, "fp16.tensorrt.engine").code == 0


def test_the_bundled_network_knows_its_labels(cli: Cli) -> None:
    """Told by the checkpoint's hash, so under any name; and by nothing else."""
    cli("fuse", demo_checkpoint(), "--name", "clothes", "--no-verify")
    cli("export", "--onnx", "--size", "56")
    assert cli("serve", "--triton", REPO).code == 0
    labels = (REPO / "clothes_fp32_onnx" / "labels.txt").read_text()
    assert labels.splitlines() == list(CLASSES)
    assert len(CLASSES) == 10
    state = torch.load(demo_checkpoint(), weights_only=True)
    torch.save({**state, "extra": torch.zeros(1)}, "other.pth")
    cli("fuse", "other.pth", "--name", "other", "--no-verify")
    cli("export", "--onnx", "--size", "56")
    assert cli("serve", "--triton", REPO).code == 0
    assert not (REPO / "other_fp32_onnx" / "labels.txt").exists()


def test_again_changes_nothing(cli: Cli, folder: ModelFolder) -> None:
    cli("serve", "--triton", REPO)
    before = {p: p.stat().st_mtime_ns for p in REPO.rglob("*.onnx")}
    result = cli("serve", "--triton", REPO, "--json")
    assert result.code == 0
    assert [m["changed"] for m in json.loads(result.out)["models"]] == [False, False]
    assert {p: p.stat().st_mtime_ns for p in REPO.rglob("*.onnx")} == before


def test_what_changed_becomes_the_next_version(cli: Cli, folder: ModelFolder) -> None:
    write_engine(folder, content="old")
    cli("serve", "--triton", REPO, "--artifact", "fp16.tensorrt.engine")
    write_engine(folder, content="new", batch=(1, 8, 64))
    result = cli("serve", "--triton", REPO, "--artifact", "fp16.tensorrt.engine")
    assert result.code == 0
    assert "version 2, new" in result.err
    model = REPO / "net_fp16_tensorrt"
    assert (model / "1" / "model.plan").read_text() == "old"
    assert (model / "2" / "model.plan").read_text() == "new"
    assert read_config(model).max_batch_size == 64
    assert sorted(p.name for p in model.iterdir()) == ["1", "2", "config.pbtxt"]


def foreign_model(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"theirs")


def foreign_config(folder: Path) -> None:
    foreign_model(folder)
    (folder / "config.pbtxt").write_text('platform: "onnxruntime_onnx"\n')


def not_even_text(folder: Path) -> None:
    foreign_model(folder)
    (folder / "config.pbtxt").write_bytes(b"\xff\x00")


def a_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"theirs")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (foreign_model, "holds a model that serve did not write"),
        (foreign_config, "holds a model that serve did not write"),
        (not_even_text, "holds a model that serve did not write"),
        (a_file, "a file stands there"),
    ],
)
def test_the_models_of_others_stay(
    cli: Cli, folder: ModelFolder, make: Callable[[Path], None], sentence: str
) -> None:
    make(REPO / "net_fp16_onnx")
    foreign_model(REPO / "another")
    before = contents(REPO)
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert f"{REPO / 'net_fp16_onnx'}: {sentence}" in result.err
    assert contents(REPO) == before  # not even the model that could have been written
    result = cli("serve", "--triton", REPO, "--name", "mine")
    assert result.code == 0
    after = contents(REPO)
    assert {path: after[path] for path in before} == before


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_edits_by_hand_stay(cli: Cli, folder: ModelFolder) -> None:
    cli("serve", "--triton", REPO)
    config = REPO / "net_fp16_onnx" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3"))
    before = contents(REPO)
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert f"{config}: was edited since serve wrote it" in result.err
    assert contents(REPO) == before


@pytest.mark.parametrize(
    ("place", "number", "cause"),
    [
        ("copyfile", errno.ENOSPC, "the disk is full"),
        ("mkdir", errno.EACCES, "permission denied"),
        ("mkdir", errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_failure_leaves_nothing_behind(
    cli: Cli, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, place: str, number: int,
    cause: str,
) -> None:  # fmt: skip
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, "no")

    owner = {"copyfile": "repvgg_deploy.serving.triton.repository.shutil", "mkdir": "pathlib.Path"}
    monkeypatch.setattr(f"{owner[place]}.{place}", refuse)
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert cause in result.err
    assert not REPO.exists()
    monkeypatch.undo()


def test_a_failed_update_leaves_the_old_version(
    cli: Cli, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engine(folder, content="old")
    only_engines(folder)
    cli("serve", "--triton", REPO)
    before = contents(REPO)
    write_engine(folder, content="new")

    def half(source: Path, target: Path) -> None:
        target.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(repository.shutil, "copyfile", half)
    assert cli("serve", "--triton", REPO).code == 1
    assert contents(REPO) == before
    assert sorted(p.name for p in (REPO / "net_fp16_tensorrt").iterdir()) == ["1", "config.pbtxt"]


def test_an_artifact_that_changes_while_it_is_copied(
    cli: Cli, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository.shutil, "copyfile", lambda _, target: target.write_bytes(b"x"))
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "changed while it was copied" in result.err
    assert not REPO.exists()


def test_what_a_killed_run_left_is_no_obstacle(cli: Cli, folder: ModelFolder) -> None:
    left = REPO / "net_fp32_onnx" / ".1.abc.part"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    assert cli("serve", "--triton", REPO).code == 0
    read_config(REPO / "net_fp32_onnx")


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "--artifact", "fp32.onnx"]])
def test_it_says_what_to_give(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert "give --triton DIR" in result.err


def test_nothing_to_serve_yet(cli: Cli, checkpoint: Path) -> None:
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "run repvgg-deploy fuse CHECKPOINT first" in result.err
    cli("fuse", checkpoint, "--no-verify")
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "run repvgg-deploy export --onnx first" in result.err
    assert not REPO.exists()


def test_a_file_in_the_place_of_the_repository(cli: Cli, folder: ModelFolder) -> None:
    REPO.write_text("theirs")
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "a part of that path is a file" in result.err
    assert REPO.read_text() == "theirs"


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "é", "-x", "", "a\nb", "x" * 101, "a:b"])
def test_names_that_do_not_fit_triton(cli: Cli, folder: ModelFolder, name: str) -> None:
    result = cli("serve", "--triton", REPO, "--name", name)
    assert result.code == 1
    assert "with --name" in result.err
    assert "Traceback" not in result.err
    assert not REPO.exists()


def test_a_model_of_the_workspace_with_such_a_name(cli: Cli, folder: ModelFolder) -> None:
    folder.path.rename("engines/my net")
    result = cli("serve", "--triton", REPO, "--model", "my net")
    assert result.code == 1
    assert "give one of letters, digits" in result.err
    assert cli("serve", "--triton", REPO, "--model", "my net", "--name", "my-net").code == 0
    read_config(REPO / "my-net_fp32_onnx")


def test_artifacts_that_are_not_there(cli: Cli, folder: ModelFolder) -> None:
    for name in ("bf16.onnx", "../net/fp32.onnx", "net.pth"):
        result = cli("serve", "--triton", REPO, "--artifact", name)
        assert result.code == 1
        assert f"--artifact {name}: is not in engines/net" in result.err
        assert "fp32.onnx, fp16.onnx" in result.err


def change(path: Path, **changes: object) -> None:
    sidecar = sidecar_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def tensor(**changes: object) -> list[dict[str, object]]:
    return [{"name": "input", "dtype": "fp16", "shape": [-1, 3, 32, 32], **changes}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sha256": "0" * 64}, "is not the file that fp16.tensorrt.engine.json describes"),
        ({"precision": "../../x"}, "no precision: '../../x'"),
        ({"flavour": "../x"}, "is no flavour of TensorRT"),
        ({"targets": ["../sm86"]}, "'../sm86' is no compute capability"),
        ({"targets": [86]}, "targets.0 is no str"),
        ({"targets": []}, "has no targets"),
        ({"lineage": []}, "was made from other fused weights"),
        ({"lineage": [{"sha256": ["x"]}, 5]}, "lineage.0.path is no str"),
        ({"proof": {"passed": False}}, "failed its proof"),
        ({"inputs": []}, "does not tell how to serve"),
        ({"outputs": []}, "has no inputs or no outputs"),
        ({"inputs": [5]}, "inputs.0 is no dict"),
        ({"inputs": tensor(name="")}, "a tensor without a name"),
        ({"inputs": tensor(name="\ud800")}, "surrogates not allowed"),
        ({"inputs": tensor(dtype="fp8")}, "'fp8' is no element type"),
        ({"inputs": tensor(dtype=["fp16"])}, "inputs.0.dtype is no str"),
        ({"inputs": tensor(shape=[-1, 3, 10**40, 32])}, "is no shape"),
        ({"inputs": tensor(shape=[-1, 0, 32, 32])}, "is no shape"),
        ({"inputs": tensor(shape=[True, 3, 32, 32])}, "inputs.0.shape.0 is no int"),
        ({"inputs": tensor(shape=[])}, "is no shape"),
        ({"inputs": tensor(shape=[-1, 3, -1, -1])}, "serve takes [batch, ...]"),
        ({"inputs": tensor(shape=[4, 3, 32, 32])}, "serve takes [batch, ...]"),
        ({"inputs": tensor(shape=[-1])}, "serve takes [batch, ...]"),
        ({"profiles": []}, "has no profile"),
        ({"profiles": [{}]}, "does not tell how to serve"),
        ({"profiles": [{"input": {"min": [], "opt": [], "max": []}}]}, "does not tell how"),
        ({"profiles": [profile(8, 4, 16)]}, "are no batch sizes"),
        ({"profiles": [profile(0, 4, 16)]}, "are no batch sizes"),
        ({"profiles": [profile(1, 4, 2**40)]}, "are no batch sizes"),
    ],
)
def test_hostile_engine_sidecars(
    cli: Cli, folder: ModelFolder, changes: dict[str, object], sentence: str
) -> None:
    path = write_engine(folder)
    change(path, **changes)
    before = contents(Path())
    result = cli("serve", "--triton", REPO)
    assert result.code == (3 if "failed its proof" in sentence else 1)
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1
    assert contents(Path()) == before


def test_paths_in_sidecars_lead_nowhere(cli: Cli, folder: ModelFolder) -> None:
    """Only the file that was found is read, and only the repository is written to."""
    Path("secret").write_text("secret")
    engine = write_engine(folder)
    for path in (engine, folder.onnx("fp32")):
        change(path, source={**source_of(path), "path": "/etc/passwd"})
    change(folder.onnx("fp32"), file="../../secret")  # that of an engine has to be a plain name
    before = contents(Path())
    assert cli("serve", "--triton", REPO).code == 0
    after = contents(Path())
    assert {p for p in after if REPO not in p.parents} == set(before)
    assert b"secret" not in {after[p] for p in after if REPO in p.parents}
    assert (REPO / "net_fp16_tensorrt/1/model.plan").read_bytes() == engine.read_bytes()


def source_of(path: Path) -> dict[str, str]:
    source: dict[str, str] = json.loads(sidecar_path(path).read_text())["source"]
    return source


def test_hostile_names_of_tensors(cli: Cli, folder: ModelFolder) -> None:
    name = 'x"\n}\ninstance_group { count: 9 }\u202e\x1b[2J\\'
    inputs = tensor(name=name)
    profiles = [{name: profile(1, 2, 4)["input"]}]
    write_engine(folder, inputs=inputs, profiles=profiles)
    result = cli("serve", "--triton", REPO, "--artifact", "fp16.tensorrt.engine")
    assert result.code == 0
    assert "\x1b" not in result.err
    config = read_config(REPO / "net_fp16_tensorrt")
    assert config.input[0].name == name
    assert list(config.model_warmup[0].inputs) == [name]
    assert len(config.instance_group) == 1


def test_weights_that_changed_since(cli: Cli, folder: ModelFolder) -> None:
    """Fused again with another eps: what was exported before is another network."""
    write_engine(folder)
    stale = {**source_of(folder.onnx("fp32")), "sha256": "0" * 64}
    change(folder.onnx("fp32"), source=stale)
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "fp32.onnx: was made from other fused weights" in result.err
    folder.fused.write_bytes(b"other")
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "is not the file that fused.safetensors.json describes" in result.err


def replace_onnx(
    folder: ModelFolder,
    element: int = onnx.TensorProto.FLOAT,
    shapes: tuple[list[object] | None, list[object] | None] = (["n", 3, 4, 4], ["n", 3, 4, 4]),
    external: str = "",
    **changes: object,
) -> Path:
    """Another graph in the place of fp32.onnx, with a sidecar that fits its bytes."""
    values = [
        onnx.helper.make_tensor_value_info(name, element, shape)
        for name, shape in zip(("x", "y"), shapes, strict=True)
    ]
    weight = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "w")
    if external:
        onnx.external_data_helper.set_external_data(weight, external, 0, 4)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    path = folder.onnx("fp32")
    fused = folder.read_fused()
    fields: dict[str, object] = {
        "file": path.name, "source": Source("fused.safetensors", fused.sha256),
        "precision": "fp32", "opset": 17, "input_name": "x", "output_name": "y",
        "input_shape": [0, 3, 4, 4], "operators": {}, "proof": {"passed": True}, **changes,
    }  # fmt: skip
    store(
        path,
        lambda temporary: temporary.write_bytes(onnx.helper.make_model(graph).SerializeToString()),
        lambda sha256: OnnxArtifact(sha256=sha256, **fields),  # type: ignore[arg-type]
    )
    return path


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        ({"shapes": (["n", 3, "h", "w"], ["n", 5])}, "x has the shape [-1, 3, -1, -1]"),
        ({"shapes": (["n", 3, 4, 4], [1, 5])}, "y has the shape [1, 5]"),
        ({"shapes": (["n", 3, 4, 4], ["n"])}, "y has the shape [-1]"),
        ({"shapes": (["n", 3, 4, 4], None)}, "[] is no shape"),
        ({"shapes": (["n", -3, 4, 4], ["n", 5])}, "is no shape"),
        ({"element": onnx.TensorProto.STRING}, "is no element type"),
        ({"element": 9999}, "is no element type"),
        ({"precision": "fp16"}, "would both be net_fp16_onnx and are both ONNX"),
        ({"precision": "fp32/../../x"}, "no precision"),
        ({"proof": {"passed": False}}, "failed its proof"),
        ({"external": "w.bin"}, "keeps weights in another file"),
        ({"external": "../../secret"}, "outside"),
    ],
)
def test_onnx_models_that_triton_cannot_serve(
    cli: Cli, folder: ModelFolder, graph: dict[str, object], sentence: str
) -> None:
    Path("secret").write_bytes(b"1234")
    (folder.path / "w.bin").write_bytes(b"1234")
    replace_onnx(folder, **graph)  # type: ignore[arg-type]
    result = cli("serve", "--triton", REPO)
    assert result.code == (3 if "failed its proof" in sentence else 1)
    assert sentence in result.err
    assert not REPO.exists()


def test_an_engine_without_a_sidecar(cli: Cli, folder: ModelFolder) -> None:
    (folder.path / "stray.engine").write_bytes(b"x")
    result = cli("serve", "--triton", REPO)
    assert result.code == 1
    assert "stray.engine.json: no such file" in result.err
    assert cli("serve", "--triton", REPO, "--artifact", "fp32.onnx").code == 0


def test_an_engine_of_a_users_own_model(cli: Cli, folder: ModelFolder) -> None:
    """A folder without fused weights, as export MODEL.onnx --trt leaves it."""
    engine = write_engine(folder, "detector.tensorrt.engine", lineage=[])
    own = Path("engines/detector")
    own.mkdir()
    for path in (engine, sidecar_path(engine)):
        path.rename(own / path.name)
    result = cli("serve", "--triton", REPO, "--model", "detector")
    assert result.code == 0, result.err
    assert "no fused weights lie here" in result.err
    assert (REPO / "detector_fp16_tensorrt/1/model.plan").read_bytes() == (
        own / engine.name
    ).read_bytes()


def test_onnx_models_that_export_did_not_write_are_named(cli: Cli, folder: ModelFolder) -> None:
    shutil.copy(folder.onnx("fp32"), folder.path / "int8.onnx")
    result = cli("serve", "--triton", REPO)
    assert result.code == 0, result.err
    assert "left out: int8.onnx was not written by export" in result.err


def test_a_folder_that_is_not_there(cli: Cli, folder: ModelFolder) -> None:
    result = cli("serve", "--triton", REPO, "--model", "nothing")
    assert result.code == 1
    assert "engines/nothing: no such folder" in result.err
