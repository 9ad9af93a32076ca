"""The first bytes of engines, of ours and of other tools'."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repvgg_deploy.engine.engine_file import is_engine, read_engine_file
from repvgg_deploy.errors import UserError

from .engines import plan, rtx_engine, with_header


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("targets", "profiles"),
    [(("sm86",), 1), (("sm120", "sm80"), 1), (("sm75",), 1), (("sm121", "sm89", "sm86"), 2)],
)
def test_an_engine_of_rtx(tmp_path: Path, targets: tuple[str, ...], profiles: int) -> None:
    """Held against what the builder was asked for, so a release that moves them fails here."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    engine = rtx_engine(tmp_path, targets, profiles)
    found = read_engine_file(write(tmp_path / "m.engine", engine))
    assert (found.plan.flavour, found.plan.version) == ("rtx", trt.__version__)
    assert sorted(found.plan.targets or []) == sorted(targets)
    assert not found.plan.other_targets
    assert (found.start, found.metadata, found.size) == (0, None, len(engine))
    for length in (len(engine) - 1, 64, 40):
        cut = write(tmp_path / "cut.engine", engine[:length])
        with pytest.raises(
            UserError, match=f"is cut off: {length:,} of the engine's {len(engine):,}"
        ):
            read_engine_file(cut)


def test_an_engine_of_rtx_for_all(tmp_path: Path) -> None:
    found = read_engine_file(write(tmp_path / "m.engine", rtx_engine(tmp_path))).plan
    assert found.targets == ["sm80", "sm86", "sm89", "sm120", "sm121"]
    assert found.other_targets


def test_an_engine_of_an_early_rtx_does_not_tell_its_targets(tmp_path: Path) -> None:
    found = read_engine_file(write(tmp_path / "m", plan(b"vtrt", (1, 4, 0, 76), bits=0x3E))).plan
    assert (found.flavour, found.version, found.targets) == ("rtx", "1.4.0.76", None)


def test_an_engine_of_tensorrt(tmp_path: Path) -> None:
    found = read_engine_file(write(tmp_path / "m.plan", plan(version=(10, 13, 3, 9))))
    assert found.plan.maker == "TensorRT 10.13.3.9"
    assert (found.plan.flavour, found.plan.targets) == ("tensorrt", None)
    old = read_engine_file(write(tmp_path / "old.trt", b"ptrt" + bytes(20)))
    assert (old.plan.maker, old.plan.version) == ("an older TensorRT", None)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"ftrt", "is cut off within its header"),
        (plan()[:30], "is cut off within its header"),
        (plan(layout=7), "of a format that this tool does not know"),
        (plan(version=(0, 0, 0, 0)), "of a format that this tool does not know"),
        (b"Not an engine at all, but quite some text.", "is no TensorRT engine"),
        (b"\x08\x08\x12\x07pytorch", "is no TensorRT engine"),
        (bytes(range(256)), "is no TensorRT engine"),
        (b"abc", "is no TensorRT engine"),
        (with_header(b"", b'{"a": 1}'), "no TensorRT engine behind it"),
        (with_header(b"rest", b'{"a": 1}'), "no TensorRT engine behind it"),
        (with_header(plan(), b'{"a": 1'), "is no TensorRT engine"),
        (with_header(plan(), b'{"a": \xff}'), "is no TensorRT engine"),
        (with_header(plan(), b'{"a":' * 99_999), "is no TensorRT engine"),
        (with_header(plan(), b'{"a":' * 99 + b"1" + b"}" * 99), "is no TensorRT engine"),
        (with_header(plan(), b"[1]"), "is no TensorRT engine"),
        (struct.pack("<i", -5) + b'{"a": 1}' + plan(), "is no TensorRT engine"),
        (struct.pack("<i", 1 << 30) + b'{"a": 1}' + plan(), "is no TensorRT engine"),
        (with_header(plan()[:20], b'{"a": 1}'), "is cut off within its header"),
    ],
)
def test_no_engine(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = write(tmp_path / "m.engine", content)
    with pytest.raises(UserError, match=sentence) as error:
        read_engine_file(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).count(". ") == 0


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.engine: no such file"):
        read_engine_file(tmp_path / "a.engine")
    (tmp_path / "b.engine").mkdir()
    with pytest.raises(UserError, match=r"b\.engine: is no file"):
        read_engine_file(tmp_path / "b.engine")


def test_a_header_before_the_engine(tmp_path: Path) -> None:
    metadata = {"names": {"0": "person"}, "imgsz": [640, 640], "Größe": None}
    text = json.dumps(metadata, ensure_ascii=False).encode()
    found = read_engine_file(write(tmp_path / "yolo.engine", with_header(plan(), text)))
    assert found.metadata == metadata
    assert found.start == 4 + len(text)
    assert found.plan.version == "10.13.3.9"


def test_a_cut_engine_behind_a_header(tmp_path: Path) -> None:
    """The header does not make up for the bytes that are missing."""
    engine = with_header(plan(b"vtrt", (1, 7, 1, 116), bits=4), b'{"a": 1}')
    assert read_engine_file(write(tmp_path / "a.engine", engine)).plan.targets == ["sm86"]
    with pytest.raises(UserError, match="is cut off: 99 of the engine's 100 bytes"):
        read_engine_file(write(tmp_path / "b.engine", engine[:-1]))


@pytest.mark.parametrize("name", ["m.engine", "m.PLAN", "m.trt", "missing.engine"])
def test_engines_by_their_ending(tmp_path: Path, name: str) -> None:
    assert is_engine(tmp_path / name)


def test_engines_by_their_content(tmp_path: Path) -> None:
    assert is_engine(write(tmp_path / "m.onnx", plan()))
    assert is_engine(write(tmp_path / "m.pth", with_header(plan(), b"{}")))
    for content in (b"", b"PK\x03\x04", b"\x80\x02}q", struct.pack("<Q", 2) + b"{}", b"\x02"):
        assert not is_engine(write(tmp_path / "m.bin", content))
    assert not is_engine(tmp_path / "missing.bin")
    assert not is_engine(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert not is_engine(tmp_path / "pipe")


def test_a_large_engine_is_not_read_into_memory(tmp_path: Path) -> None:
    """4 TB, of which the disk holds the first bytes alone."""
    path = write(tmp_path / "large.engine", plan())
    with path.open("r+b") as stream:
        try:
            stream.truncate(1 << 42)
        except OSError as error:
            pytest.skip(f"this file system has no sparse files: {error}")
    assert read_engine_file(path).size == 1 << 42


@given(
    start=st.sampled_from([b"", b"ftrt", b"vtrt", b"ptrt", b"\x02\0\0\0{}", b"\x09\0\0\0{"]),
    rest=st.binary(max_size=200),
)
@settings(deadline=None)
def test_whatever_a_file_holds(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    """Either an engine, or one sentence that names the file."""
    path = write(tmp_path_factory.getbasetemp() / "any.engine", start + rest)
    said = ""
    try:
        found = read_engine_file(path)
    except UserError as error:
        said = str(error)
    if said:
        assert said.startswith(f"{path}: ")
    else:
        assert (start + rest)[found.start :][:4] in (b"ftrt", b"vtrt", b"ptrt")
        assert found.plan.targets is None or found.plan.flavour == "rtx"
