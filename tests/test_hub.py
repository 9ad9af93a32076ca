"""hf:OWNER/REPO from a stand-in hub on loopback; nothing here touches the real one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from repvgg_deploy.checkpoint.hub import HubFile, fetch, parse_hub
from repvgg_deploy.errors import UserError

from .hub_standin import COMMIT, GATED, NO_REPO, OTHER, REPO, StandIn, pointed_at, serve

constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra hub")
ASKED = HubFile(REPO)


class Running(StandIn):
    """A stand-in that a test can take down."""

    down: ExitStack


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with ExitStack() as stack:
        standin = Running()
        standin.down = stack
        stack.enter_context(serve(standin))
        with pointed_at(standin.url, tmp_path, monkeypatch):
            yield standin


def refusal(wanted: HubFile) -> str:
    """The one sentence that fetch refuses with."""
    with pytest.raises(UserError) as stop:
        fetch(wanted)
    text = str(stop.value)
    assert text.startswith(f"{wanted}: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


def files_in(folder: Path) -> list[str]:
    """File contents in the cache, whole or not."""
    paths = [path for room in ("blobs", "snapshots") for path in folder.glob(f"*/{room}/**/*")]
    return [path.name for path in paths if not path.is_dir()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ckpt.pth", None),
        (f"hf:{REPO}", HubFile(REPO)),
        (f"hf:{REPO}@refs/pr/1", HubFile(REPO, "refs/pr/1")),
        (f"hf:{REPO}:deep/er/w.pth", HubFile(REPO, None, "deep/er/w.pth")),
        (f"hf:{REPO}@v1:w@2.pth", HubFile(REPO, "v1", "w@2.pth")),
    ],
)
def test_the_grammar(text: str, expected: HubFile | None) -> None:
    assert parse_hub(text) == expected
    if expected is not None:
        assert str(expected) == text


@pytest.mark.parametrize(
    "rest",
    [
        "", "repo", "a/b/c", "/b", "a/", "../b", "a/..", "a/b--c", "a/b.git", "a/-b", "a/b c",
        "//timm/a", "https://huggingface.co/timm/a", "a/b@", "a/b:", "a/b@:f", "a/b@../x",
        "a/b@x//y", "a/b:../f", "a/b:/etc/passwd", "a/b:x/../../f", "a/b:.", "a/b:x\\..\\f",
        "a/b:c:d", "a/b:x\n", "a/" + "b" * 97,
    ],
)  # fmt: skip
def test_malformed_names_get_the_grammar(rest: str) -> None:
    with pytest.raises(UserError, match=r"hf:OWNER/REPO\[@revision\]\[:file\]"):
        parse_hub(f"hf:{rest}")


def test_without_a_file(hub: Running, capfd: pytest.CaptureFixture[str]) -> None:
    found = fetch(ASKED)
    assert found.path.read_bytes() == b"weights"
    assert found.name == "repvgg_a0.rvgg_in1k"
    assert found.origin == f"hf:{REPO}@{COMMIT}:model.safetensors"
    assert capfd.readouterr() == ("", "")


def test_the_library_s_own_warnings_are_kept_back(
    hub: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a disk that may be too small, and of each retry."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    hub.cut = 3
    refusal(ASKED)
    hub.cut = None
    fetch(ASKED)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("names", "picked"),
    [
        (["pytorch_model.bin", "model.safetensors", "a.pth"], "model.safetensors"),
        (["README.md", "pytorch_model.bin", "a.pth"], "pytorch_model.bin"),
        (["README.md", "deep/net.pkl"], "deep/net.pkl"),
        (["../../model.pth", "/etc/x.pth", "net.pt"], "net.pt"),
    ],
)
def test_which_file_it_picks(hub: Running, names: list[str], picked: str) -> None:
    hub.files = {name: name.encode() for name in names}
    found = fetch(ASKED)
    assert found.path.read_bytes() == picked.encode()
    assert found.origin == f"hf:{REPO}@{COMMIT}:{picked}"


def test_it_does_not_guess(hub: Running) -> None:
    hub.files = {"README.md": b"", "b.pth": b"b", "a.pth": b"a"}
    assert f"(a.pth, b.pth); name one, as in hf:{REPO}:a.pth" in refusal(ASKED)
    hub.files = {f"{n:02}.txt": b"" for n in range(20)}
    assert re.search(r"no checkpoint in .* holds 00.txt, .*, 11.txt and 8 more", refusal(ASKED))
    hub.files = {}
    assert "holds nothing" in refusal(ASKED)


@pytest.mark.parametrize("revision", ["refs/pr/1", OTHER])
def test_a_revision_and_a_file(hub: Running, revision: str) -> None:
    hub.revisions["refs/pr/1"] = OTHER
    hub.files["deep/w@2 #?.pth"] = b"2"
    found = fetch(HubFile(REPO, revision, "deep/w@2 #?.pth"))
    assert found.path.read_bytes() == b"2"
    assert parse_hub(found.origin) == HubFile(REPO, OTHER, "deep/w@2 #?.pth")


@pytest.mark.parametrize("file", [None, "model.safetensors"])
@pytest.mark.parametrize("revision", [None, "refs/pr/1", COMMIT])
@pytest.mark.parametrize("how", ["down", "offline", "503", "login page"])
def test_the_cache_serves_it_again(
    hub: Running, file: str | None, revision: str | None, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.revisions["refs/pr/1"] = COMMIT
    wanted = HubFile(REPO, revision, file)
    first = fetch(wanted)
    if how == "down":
        hub.down.close()
    elif how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.answers["/"] = (503, "") if how == "503" else b"<html>please log in</html>"
    assert fetch(wanted) == first
    other = HubFile(REPO, revision, "other.pth")
    assert "not in the cache" in refusal(other) or how == "login page"


def test_a_pinned_commit_in_the_cache_asks_nobody(hub: Running) -> None:
    wanted = parse_hub(fetch(ASKED).origin)
    assert wanted is not None
    hub.asked.clear()
    assert fetch(wanted).path.read_bytes() == b"weights"
    assert hub.asked == []


def test_a_moved_branch_is_fetched_anew(hub: Running) -> None:
    fetch(ASKED)
    hub.revisions["main"], hub.files["model.safetensors"] = OTHER, b"newer"
    found = fetch(ASKED)
    assert (found.path.read_bytes(), OTHER in found.origin) == (b"newer", True)


def test_the_token_is_sent(hub: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(ASKED)
    assert {method for method, _, _ in hub.asked} == {"GET", "HEAD"}
    assert {token for _, _, token in hub.asked} == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("part", "told", "said"),
    [
        ("/", NO_REPO, rf"has no repository {REPO}, or it is private; .*HF_TOKEN"),
        ("/api/", GATED, rf"gated; ask for access at http.*/{REPO}, then .*HF_TOKEN"),
        ("/resolve/", GATED, r"is gated; .*hf auth login"),
        ("/", (401, ""), r"refuses access to .* \(401\); .*HF_TOKEN"),
        ("/", (403, ""), r"refuses access to .* \(403\); .*HF_TOKEN"),
        ("/", (429, ""), r"too many requests \(429\); wait"),
        ("/", (500, ""), r"out of order \(500\) and this is not in the cache; try later"),
        ("/resolve/", (503, ""), r"out of order \(503\)"),
        ("/resolve/", (404, "EntryNotFound"), r"file is gone; run the same command again"),
        ("/", (404, ""), r"answers 404, not as a Hugging Face hub does; check HF_ENDPOINT"),
        ("/", b"<html>", r"does not answer as a Hugging Face hub does; .*login"),
        ("/", b"{}", r"does not answer as a Hugging Face hub does"),
        ("/resolve/", b"<html>", r"download of model.safetensors broke off"),
    ],
)
def test_what_the_hub_may_answer(
    hub: Running, part: str, told: tuple[int, str] | bytes, said: str, cache: Path
) -> None:
    hub.answers[part] = told
    assert re.search(said, refusal(ASKED))
    assert files_in(cache) == []


def test_no_such_thing(hub: Running) -> None:
    assert "has no repository timm/none" in refusal(HubFile("timm/none"))
    assert "has no such branch, tag or commit" in refusal(HubFile(REPO, "v9"))
    said = refusal(HubFile(REPO, None, "model.pth"))
    assert "no such file in the repository, which holds model.safetensors" in said


def test_offline_and_not_cached(hub: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for wanted in (ASKED, HubFile(REPO, COMMIT, "model.safetensors")):
        said = refusal(wanted)
        assert f"not in the cache ({constants.HF_HUB_CACHE}); unset HF_HUB_OFFLINE" in said
    assert hub.asked == []


def test_unreachable(hub: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stall = 30
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    assert re.search(rf"{hub.url} cannot be reached \(.*timed out.*\)", refusal(ASKED))
    hub.down.close()
    assert re.search(r"cannot be reached \(.*refused.*\) and .* check the network", refusal(ASKED))
    for endpoint in ("localhost", "http://127.0.0.1:port"):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert re.search(r"cannot be reached .* HF_ENDPOINT", refusal(ASKED))


def test_a_broken_download_leaves_nothing(hub: Running, cache: Path) -> None:
    hub.files["model.safetensors"] = b"weights" * 1000
    hub.cut = 3000
    said = refusal(ASKED)
    assert "download of model.safetensors broke off (" in said
    assert "run the same command again" in said
    assert files_in(cache) == []
    hub.cut = None
    assert fetch(ASKED).path.stat().st_size == 7000


@pytest.mark.parametrize(
    "stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_stop_amid_the_download_leaves_nothing(
    hub: Running, cache: Path, stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_some(url: str, temp_file: BinaryIO, **options: object) -> None:
        temp_file.write(b"weig")
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", write_some)
        if isinstance(stop, OSError):
            said = refusal(ASKED)
            assert f"the cache, {cache}, cannot be written to (No space left on device)" in said
            assert "set HF_HOME to another folder" in said
        else:
            with pytest.raises(KeyboardInterrupt):
                fetch(ASKED)
    assert files_in(cache) == []
    assert fetch(ASKED).path.read_bytes() == b"weights"


def test_a_cache_that_cannot_be_made(hub: Running, cache: Path) -> None:
    cache.write_text("a file, where the folder should be")
    assert "cannot be written to (" in refusal(ASKED)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repvgg_deploy.optional.available", lambda module: None)
    with pytest.raises(UserError, match=r'pip install "repvgg-deploy\[hub\]"'):
        fetch(ASKED)


def run_fetch(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Fetch in a process of its own, with the library's variables as users set them."""
    code = f"from repvgg_deploy.checkpoint.hub import *; print(fetch(HubFile({REPO!r})).path)"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**plain, "HF_HOME": str(home), "no_proxy": "127.0.0.1", **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_library_takes_its_own_variables(tmp_path: Path) -> None:
    with serve(StandIn()) as hub:
        online = run_fetch(tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN="hf_mine")
    assert {token for _, path, token in hub.asked if REPO in path} == {"Bearer hf_mine"}
    offline = run_fetch(tmp_path, HF_HUB_OFFLINE="1")
    assert (online.stderr, offline.stderr) == ("", "")
    assert online.stdout == offline.stdout
    assert online.stdout.startswith(str(tmp_path / "hub"))


def test_xet_storage_that_refuses(tmp_path: Path) -> None:
    """Where the real hub keeps most weights; hf_xet reads its variables at import too."""
    pytest.importorskip("hf_xet")
    with serve(StandIn(xet=True)) as hub:
        failed = run_fetch(tmp_path, HF_ENDPOINT=hub.url)
        assert any("/reconstructions/" in path for _, path, _ in hub.asked)
        *_, last = failed.stderr.splitlines()
        assert "UserError: " in last
        assert re.search(r"download of model.safetensors broke off \(.*404 Not Found.*\);", last)
        assert files_in(tmp_path / "hub") == []
        plain = run_fetch(tmp_path, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
    assert plain.stderr == ""
    assert Path(plain.stdout.strip()).read_bytes() == b"weights"
