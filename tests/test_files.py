"""Files appear whole or not at all; sidecars and the workspace."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from repvgg_deploy.artifacts import FusedArtifact, Source
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.sidecar import read_sidecar, recorded_source, sidecar_path, store, to_json
from repvgg_deploy.transaction import transaction, whole_file
from repvgg_deploy.workspace import ModelFolder, Workspace


def artifact(sha256: str, source: str = "a" * 64) -> FusedArtifact:
    return FusedArtifact(
        file="fused.safetensors", sha256=sha256, source=Source("/x/ckpt.pth", source),
        source_form="train", family="repvgg", architecture="RepVGG-A0", reading={},
        spec={}, proof=None,
    )  # fmt: skip


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        temporary.write_bytes(b"all of it")
    assert path.read_bytes() == b"all of it"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises((stop, UserError)), whole_file(path) as temporary:
        temporary.write_bytes(b"half of the new")
        raise stop
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_stays(tmp_path: Path) -> None:
    """As root, a rename would put a file in the place of /dev/null."""
    pipe, stream = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    stream.symlink_to("/proc/self/fd/1")
    for path in (pipe, stream):
        with (
            pytest.raises(UserError, match="cannot be written: a device or a pipe stands there"),
            whole_file(path),
        ):
            pytest.fail("nothing is to be written")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stream.is_symlink()


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "1"
    with transaction(path.parent) as change:
        temporary = change.place(path)
        temporary.mkdir()
        (temporary / "a").write_bytes(b"a")
        (temporary / "b").write_bytes(b"b")
        assert not path.exists()
    assert sorted(os.listdir(path)) == ["a", "b"]
    assert os.listdir(path.parent) == ["1"]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").touch()
    assert path.stat().st_mode == plain.stat().st_mode  # others may read it, as any new folder
    assert (path / "a").stat().st_mode == (plain / "file").stat().st_mode


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_no_folder(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises((stop, UserError)), transaction(tmp_path) as change:
        temporary = change.place(tmp_path / "1")
        temporary.mkdir()
        (temporary / "a").write_bytes(b"half")
        raise stop
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "theirs").touch()
    with pytest.raises(UserError, match="cannot be written"), transaction(tmp_path) as change:
        change.place(tmp_path / "1")
    assert os.listdir(tmp_path) == ["1"]
    assert os.listdir(tmp_path / "1") == ["theirs"]


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_causes_in_words(tmp_path: Path, number: int, cause: str) -> None:
    with pytest.raises(UserError, match=cause) as error, whole_file(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path / "file") in str(error.value)


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").touch()
    with (
        pytest.raises(UserError, match="choose another folder"),
        whole_file(tmp_path / "engines" / "x"),
    ):
        pass


def test_artifact_and_sidecar_come_together(tmp_path: Path) -> None:
    path = tmp_path / "fused.safetensors"
    made = store(path, lambda temporary: temporary.write_bytes(b"weights"), artifact)
    assert made.sha256 == sha256_file(path)
    assert read_sidecar(path, FusedArtifact) == made

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(UserError, match="disk is full"):
        store(path, fail, artifact)
    assert read_sidecar(path, FusedArtifact) == made  # the old pair still fits together
    assert sorted(os.listdir(tmp_path)) == ["fused.safetensors", "fused.safetensors.json"]


def change_sidecar(path: Path, **changes: object) -> None:
    sidecar = sidecar_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def swap(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of the sidecar."""
    sidecar_path(path).unlink()
    make(sidecar_path(path))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: p.write_bytes(b"other"), "is not the file that"),
        (lambda p: p.unlink(), "is not the file that"),
        (lambda p: sidecar_path(p).unlink(), "no such file"),
        (lambda p: sidecar_path(p).write_text("{"), "is damaged"),
        (lambda p: sidecar_path(p).write_text("[]"), "is damaged"),
        (lambda p: sidecar_path(p).write_text('{"schema": 3, "source": {}}'), "is damaged"),
        (lambda p: sidecar_path(p).write_text("[" * 99_999), "is damaged"),
        (lambda p: swap(p, os.mkdir), "it is no file"),
        (lambda p: swap(p, getattr(os, "mkfifo", os.mkdir)), "it is no file"),  # nor is it opened
        (lambda p: change_sidecar(p, schema=1), "another version"),
        (lambda p: change_sidecar(p, source={"path": 5, "sha256": ""}), "path is no str"),
        (lambda p: change_sidecar(p, proof=[]), "proof is no dict"),
    ],
)
def test_sidecars_are_checked(tmp_path: Path, damage: object, sentence: str) -> None:
    path = tmp_path / "fused.safetensors"
    store(path, lambda temporary: temporary.write_bytes(b"weights"), artifact)
    damage(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence):
        read_sidecar(path, FusedArtifact)
    assert recorded_source(path) is None or sidecar_path(path).is_file()


def test_json_is_strict() -> None:
    data = {"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), "d": Source("p", "s")}
    assert json.loads(to_json(data)) == {
        "a": None, "b": [None, 1.5], "c": "x", "d": {"path": "p", "sha256": "s"},
    }  # fmt: skip


def fused_model(workspace: Workspace, name: str, source: str) -> ModelFolder:
    folder = workspace.claim(name, source)
    store(
        folder.fused,
        lambda temporary: temporary.write_bytes(b"weights"),
        lambda sha256: artifact(sha256, source),
    )
    with transaction(folder.path) as change:
        workspace.set_current(folder, change)
    return folder


def test_the_model_fused_last_is_current(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    fused_model(workspace, "one", "1" * 64)
    fused_model(workspace, "two", "2" * 64)
    assert workspace.model().name == "two"
    assert workspace.model("one").name == "one"


def test_one_name_holds_one_checkpoint(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = fused_model(workspace, "ckpt", "1" * 64)
    assert workspace.claim("ckpt", "1" * 64) == folder  # the same checkpoint again
    with pytest.raises(UserError, match=r"another checkpoint.*\(/x/ckpt.pth\).*--name"):
        workspace.claim("ckpt", "2" * 64)


def test_a_damaged_sidecar_can_be_fused_over(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = fused_model(workspace, "ckpt", "1" * 64)
    sidecar_path(folder.fused).write_text("{")
    assert workspace.claim("ckpt", "2" * 64) == folder


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "../x", "a\\b", "a\nb", "x" * 300, "current.json"]
)
def test_names_stay_inside_the_workspace(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no model name"):
        Workspace(tmp_path).claim(name, "1" * 64)


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda root: None, "no checkpoint is fused here yet"),
        (lambda root: (root / "current.json").write_text("{"), "is damaged"),
        (lambda root: (root / "current.json").write_text("[" * 99_999), "is damaged"),
        (
            lambda root: (root / "current.json").write_text('{"model": "gone"}'),
            "nothing is fused under",
        ),
        (lambda root: (root / "current.json").write_text('{"model": "../up"}'), "no model name"),
    ],
)
def test_no_current_model(tmp_path: Path, prepare: object, sentence: str) -> None:
    prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence):
        Workspace(tmp_path).model()
