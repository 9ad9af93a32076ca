"""A stand-in for the Hugging Face hub on loopback: the few answers that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

REPO = "timm/repvgg_a0.rvgg_in1k"
COMMIT, OTHER = "a" * 40, "b" * 40
#: Answers of the real hub: status and X-Error-Code.
NO_REPO, NO_REVISION, GATED = (401, "RepoNotFound"), (404, "RevisionNotFound"), (403, "GatedRepo")


@dataclass
class StandIn:
    """What it holds, what it was asked, and how it is told to misbehave."""

    files: dict[str, bytes] = field(default_factory=lambda: {"model.safetensors": b"weights"})
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    #: Part of a path -> (status, error code), or raw bytes to answer 200 with.
    answers: dict[str, tuple[int, str] | bytes] = field(default_factory=dict)
    cut: int | None = None  # send only that many bytes of a file
    stall: float = 0  # seconds before any answer
    xet: bool = False  # say that the files are in xet storage, which then has none of them
    url: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        for part, told in self.answers.items():
            if part in path:
                if isinstance(told, bytes):
                    return 200, {}, told
                return told[0], {"X-Error-Code": told[1]} if told[1] else {}, b""
        if path == "/xet-token":
            token, until = "t", 9999999999
            said = {"Cas-Url": self.url, "Access-Token": token, "Token-Expiration": str(until)}
            body = {"casUrl": self.url, "accessToken": token, "exp": until}
            headers = {f"X-Xet-{name}": value for name, value in said.items()}
            return 200, headers, json.dumps(body).encode()
        if "/reconstructions/" in path:
            return 404, {}, b""
        asks_api = path.startswith(f"/api/models/{REPO}")
        if not asks_api and not path.startswith(f"/{REPO}/resolve/"):
            return self.refuse(NO_REPO)
        rest = path.split("/revision/" if asks_api else "/resolve/")[1:] or ["main"]
        revision, _, file = rest[0].partition("/")
        commit = self.revisions.get(unquote(revision), unquote(revision))
        if commit not in self.revisions.values():
            return self.refuse(NO_REVISION)
        if asks_api:
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {}, json.dumps({"id": REPO, "sha": commit, "siblings": siblings}).encode()
        content = self.files.get(unquote(file))
        if content is None:
            return self.refuse((404, "EntryNotFound"))
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if self.xet:
            headers |= {"X-Xet-Hash": "c" * 64, "X-Xet-Refresh-Route": f"{self.url}/xet-token"}
        return 200, headers, content

    @staticmethod
    def refuse(told: tuple[int, str]) -> tuple[int, dict[str, str], bytes]:
        return told[0], {"X-Error-Code": told[1]}, b""


@contextmanager
def serve(hub: StandIn) -> Iterator[StandIn]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append((self.command, self.path, self.headers["Authorization"]))
            hub.stop.wait(hub.stall)
            status, headers, content = hub.answer(self.path.split("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                whole = self.path.startswith("/api/") or hub.cut is None
                self.wfile.write(content if whole else content[: hub.cut])

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def pointed_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub asks ``url``; it read its variables at import, so those are set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # it writes into HF_HOME
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's retries
    close_session()
    yield
    close_session()
