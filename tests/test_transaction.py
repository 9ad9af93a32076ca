"""Files change together or not at all, at whatever moment a run ends."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from repvgg_deploy.errors import UserError
from repvgg_deploy.redo_log import recover, recover_inside
from repvgg_deploy.transaction import check_writable, transaction, whole_file

from .moments import at_each_call, copies_at_each_moment, count_moments, files, hidden

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and flock")

OLD = {"m/a": b"old a", "m/b": b"old b", "m/gone": b"old", "m/other": b"x", "current.json": b"old"}
NEW = {"m/a": b"new a", "m/b": b"new b", "m/c": b"new c", "m/other": b"x", "current.json": b"new",
       "m/1/model": b"version"}  # fmt: skip


def write(root: Path, content: dict[str, bytes]) -> None:
    for name, value in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(value)


def change(root: Path) -> None:
    """Everything that a transaction can do."""
    with transaction(root / "m") as made:
        for name in ("a", "b", "c"):
            made.place(root / "m" / name).write_bytes(f"new {name}".encode())
        if not (root / "m" / "1").exists():
            made.place(root / "m" / "1").mkdir()
            (made.place(root / "m" / "1") / "model").write_bytes(b"version")
        made.place(root / "current.json").write_bytes(b"new")
        made.remove(root / "m" / "gone")
        made.remove(root / "m" / "never was")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "w", OLD)
    return tmp_path / "w"


def fresh(root: Path) -> None:
    shutil.rmtree(root)
    write(root, OLD)


def in_child(run: Callable[[], object]) -> int:
    """The exit status of a forked process that runs it; negative for a signal."""
    return end_of(fork(run))


def fork(run: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run()
        status = 0
    finally:
        os._exit(status)


def end_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_all_of_it_happens(root: Path) -> None:
    change(root)
    assert files(root) == NEW
    assert not hidden(root)


@needs_fork
def test_sigkill_at_every_moment(root: Path) -> None:
    """The next run finds the old files or the new ones, and nothing between."""
    moments = count_moments(lambda: change(root))
    assert moments > 30
    seen = []
    for moment in [*range(1, moments, 2), moments]:  # after a call is before the next one
        fresh(root)

        def kill(number: int, moment: int = moment) -> None:
            if number == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def killed(kill: Callable[[int], None] = kill) -> None:
            with at_each_call(kill):
                change(root)

        assert in_child(killed) == -signal.SIGKILL
        recover_inside(root)
        assert files(root) in (OLD, NEW), moment
        assert not hidden(root), moment
        seen.append(files(root) == NEW)
        change(root)
        assert files(root) == NEW
    assert seen == sorted(seen)  # once it counts, it stays
    assert {*seen} == {False, True}


@needs_fork
def test_sigkill_while_a_killed_run_is_completed(root: Path, tmp_path: Path) -> None:
    """The record of the changes is the last thing to go."""

    def kill(number: int) -> None:
        if (root / "m/b").read_bytes() == b"new b":
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        with at_each_call(kill):
            change(root)

    assert in_child(killed) == -signal.SIGKILL
    assert not (root / "m/c").exists()
    copies = copies_at_each_moment(lambda: recover(root / "m"), root, tmp_path / "copies")
    assert len(copies) > 10
    for copy in copies:
        recover(copy / "m")
        assert files(copy) == NEW
        assert not hidden(copy)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_every_moment(root: Path, number: signal.Signals) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        for moment in range(1, count_moments(lambda: change(root)) + 1):
            fresh(root)

            def send(now: int, moment: int = moment) -> None:
                if now == moment:
                    signal.raise_signal(number)

            with pytest.raises(KeyboardInterrupt), at_each_call(send):
                change(root)
            assert files(root) in (OLD, NEW), moment
            assert not hidden(root), moment
            assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)


def test_a_call_that_is_refused_at_every_moment(root: Path) -> None:
    """What was renamed before is taken back."""
    undone = 0
    for moment in range(1, count_moments(lambda: change(root)) + 1):
        fresh(root)

        def refuse(now: int, moment: int = moment) -> None:
            if now == moment:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        said = ""
        try:
            with at_each_call(refuse):
                change(root)
        except UserError as error:
            said = str(error)
        undone += bool(said)
        assert ".part" not in said
        recover(root / "m")
        # NEW after all: a link that could be done without, or amid the tidying
        assert files(root) == (OLD if said else NEW), moment
        assert not hidden(root), moment
    assert undone > 10


def test_a_place_that_takes_no_file_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an immutable file is."""
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == root / "m/c":
            raise PermissionError(errno.EPERM, "no", str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"w/m/c: cannot be written: permission denied"):
        change(root)
    assert files(root) == OLD
    assert not hidden(root)


def test_a_file_system_without_hard_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", refuse)
    test_a_call_that_is_refused_at_every_moment(root)


@needs_fork
def test_the_files_of_a_run_that_is_alive_stay(root: Path) -> None:
    with transaction(root / "m") as made:
        made.place(root / "m/a").write_bytes(b"new a")
        (stage,) = hidden(root)
        in_child(lambda: recover(root / "m"))
        recover(root / "m")
        with whole_file(root / "m/b") as temporary:
            temporary.write_bytes(b"new b")
        assert stage.exists()
    assert files(root)["m/a"] == b"new a"
    assert not hidden(root)


@needs_fork
@pytest.mark.parametrize("writer", [False, True])
def test_others_wait_for_a_run_that_renames(root: Path, writer: bool) -> None:
    """A reader, or a run that has written its files and is to rename them."""
    theirs = transaction(root / "m")
    if writer:
        made = theirs.__enter__()
        for name in ("a", "c"):
            made.place(root / "m" / name).write_bytes(b"theirs")
    begun, go_on = os.pipe(), os.pipe()

    def pause(number: int) -> None:
        if (root / "m/a").read_bytes() == b"new a" and not (root / "m/c").exists():
            os.write(begun[1], b"x")
            os.read(go_on[0], 1)

    def paused() -> None:
        with at_each_call(pause):
            change(root)

    child = fork(paused)
    os.read(begun[0], 1)
    assert files(root) != OLD
    other = threading.Thread(
        target=(lambda: theirs.__exit__(None, None, None))
        if writer
        else lambda: recover(root / "m")
    )
    other.start()
    other.join(0.3)
    for _ in range(20):
        os.write(go_on[1], b"x")
    other.join()
    assert end_of(child) == 0
    assert files(root) == {**NEW, **(dict.fromkeys(["m/a", "m/c"], b"theirs") if writer else {})}
    assert not hidden(root)
    for descriptor in (*begun, *go_on):
        os.close(descriptor)


@needs_fork
def test_a_folder_that_is_read_only(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Changes that count and cannot be completed are said; others are of no consequence."""

    def stop(number: int) -> None:
        if (root / "m/a").read_bytes() == b"new a":
            os._exit(1)

    def run() -> None:
        with at_each_call(stop):
            change(root)

    assert in_child(run) == 1

    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        for name in ("replace", "link", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, refuse)
        with pytest.raises(UserError, match=r"w/m: a run was killed .*Read-only file system"):
            recover(root / "m")
    recover(root / "m")
    assert files(root) == NEW


@pytest.mark.parametrize(
    "record",
    ["{", "[]", '{"placed": ["../../x"], "removed": []}', '{"placed": [], "removed": ["/etc/x"]}',
     '{"placed": [".."], "removed": []}', '{"placed": [1], "removed": []}', "{}", "[" * 100_000],
    ids=range(8),
)  # fmt: skip
def test_a_record_that_reaches_elsewhere(root: Path, tmp_path: Path, record: str) -> None:
    """A folder from elsewhere cannot make this tool change files outside it."""
    stage = root / "m" / ".repvgg-deploy.0123456789ab.part"
    (stage / "new").mkdir(parents=True)
    (stage / "new" / "x").write_text("theirs")
    own = record.replace('{"placed"', f'{{"stage": {stage.stat().st_ino}, "placed"')
    (stage / "commit.json").write_text(own)
    with pytest.raises(UserError, match=r"commit\.json is damaged"):
        recover(root / "m")
    assert not (tmp_path / "x").exists()


def abandoned(stage: Path) -> Path:
    """The hidden folder of a run that was killed after its record."""
    (stage / "new").mkdir(parents=True)
    (stage / "new" / "a").write_text("theirs")
    record = {"stage": stage.stat().st_ino, "placed": ["a"], "removed": ["b"]}
    (stage / "commit.json").write_text(json.dumps(record))
    return stage


def test_a_hidden_folder_that_came_with_a_download(root: Path, tmp_path: Path) -> None:
    """It is of another folder, whoever owns it now."""
    stage = abandoned(tmp_path / "elsewhere")
    shutil.copytree(stage, root / "m" / ".repvgg-deploy.0123456789ab.part")
    before = files(root)
    with pytest.raises(UserError, match="a copy of an unfinished change"):
        recover(root / "m")
    assert files(root) == before


@pytest.mark.parametrize("inner", ["", "new", "old"])
def test_a_link_in_the_place_of_a_hidden_folder(root: Path, tmp_path: Path, inner: str) -> None:
    """What it leads to is neither moved nor removed."""
    elsewhere = abandoned(tmp_path / "elsewhere")
    stage = root / "m" / ".repvgg-deploy.0123456789ab.part"
    if inner:
        stage.mkdir()
        shutil.copy(elsewhere / "commit.json", stage)
    (elsewhere / "old").mkdir()
    (stage / inner).symlink_to(elsewhere / inner)
    before = files(elsewhere)
    change(root)
    (stage / inner).unlink()
    assert files(elsewhere) == before
    assert (root / "m" / "a").read_bytes() == b"new a"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away")
def test_the_hidden_folder_of_another_user(root: Path) -> None:
    """In /tmp anyone may leave one; in a workspace of that user's it is as good as ours."""
    stage = abandoned(root / "m" / ".repvgg-deploy.0123456789ab.part")
    for path in (stage, stage / "new"):
        os.chown(path, 12345, 12345)
    recover(root / "m")
    assert (root / "m" / "b").exists()
    os.chown(root / "m", 12345, 12345)
    recover(root / "m")
    assert not (root / "m" / "b").exists()


def test_files_of_others_are_no_leftovers(root: Path) -> None:
    for name in (".part", "x.part", ".x.part", ".repvgg-deploy.part"):
        (root / "m" / name).write_text("theirs")
    recover(root / "m")
    assert len(files(root)) == len(OLD) + 4


def test_folders_made_for_a_run_that_fails_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a/b/c") as temporary:
        temporary.write_text("x")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    check_writable(tmp_path / "a/b/c")
    assert os.listdir(tmp_path) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a/b/c"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a"]  # that was there


def test_the_later_of_two_at_once_says_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with transaction(root / "m") as first:
        first.place(root / "m/a").write_bytes(b"first")
        with whole_file(root / "m/b") as temporary:
            temporary.write_bytes(b"another file")
    assert not caplog.messages
    with transaction(root / "m") as first:
        first.place(root / "m/a").write_bytes(b"first")
        with whole_file(root / "m/a") as temporary:
            temporary.write_bytes(b"second")
    assert (root / "m/a").read_bytes() == b"first"
    (message,) = caplog.messages
    assert str(root / "m/a") in message
