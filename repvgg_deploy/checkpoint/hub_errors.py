"""What huggingface_hub raises, as one sentence for the user."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UserError

_LOGIN = "put a token that may read it into HF_TOKEN, or log in with hf auth login"


@contextmanager
def explained(wanted: object, repo: str, api: Any, download: str = "") -> Iterator[None]:
    """Turn what the library raises in the block into a UserError with that as its cause.

    ``download`` names the file where the block fetches one; otherwise it asks for the repository.
    """
    try:
        yield
    except Exception as error:
        not_cached = isinstance(error, _errors().LocalEntryNotFoundError)
        known = error.__cause__ if not_cached and error.__cause__ is not None else error
        text = _answer(known, repo, api.endpoint) or (
            _download_failure(known, download) if download else _silence(known, api.endpoint)
        )
        if text is None:
            raise
        raise UserError(f"{wanted}: {text}.") from known


def unanswered(error: BaseException | None) -> bool:
    """Whether what explained tells is no answer of a hub, so that an earlier download has to do."""
    if isinstance(error, _errors().HfHubHTTPError):
        return _status(error) == 429 or _status(error) >= 500
    return True


def _errors() -> Any:
    return importlib.import_module("huggingface_hub.errors")


def _status(error: Any) -> int:
    return int(error.response.status_code)


def _answer(error: BaseException, repo: str, endpoint: str) -> str | None:
    """What the hub answered, or that it was not to be asked."""
    errors = _errors()
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            "offline mode is on and this is not in the cache "
            f"({_cache()}); unset HF_HUB_OFFLINE to download it"
        )
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated; ask for access at {endpoint}/{repo}, then {_LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{endpoint} has no repository {repo}, or it is private; check the spelling, and for "
            f"a private one {_LOGIN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no such branch, tag or commit; {endpoint}/{repo}/commits/main has them"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository changed just now and the file is gone; run the same command again"
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status = _status(error)
    if status in (401, 403):
        return f"{endpoint} refuses access to {repo} ({status}); {_LOGIN}"
    if status == 429:
        return f"{endpoint} has had too many requests (429); wait some minutes, or {_LOGIN}"
    if status >= 500:
        return f"{endpoint} is out of order ({status}) and this is not in the cache; try later"
    return f"{endpoint} answers {status}, not as a Hugging Face hub does; check HF_ENDPOINT"


def _silence(error: BaseException, endpoint: str) -> str | None:
    """No answer, or none that a hub would give."""
    if isinstance(error, (_errors().HTTPError, OSError)) or type(error).__name__ == "InvalidURL":
        return (
            f"{endpoint} cannot be reached ({_detail(error)}) and this is not in the cache; check "
            "the network, and HF_ENDPOINT if you set it"
        )
    if isinstance(error, (ValueError, KeyError)):
        return (
            f"{endpoint} does not answer as a Hugging Face hub does; check HF_ENDPOINT, or whether "
            "the network asks for a login"
        )
    return None


def _download_failure(error: BaseException, file: str) -> str | None:
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return (
            f"the cache, {_cache()}, cannot be written to ({error.strerror}); free some space "
            "there or set HF_HOME to another folder"
        )
    if isinstance(error, (_errors().HTTPError, OSError, RuntimeError)):
        return (
            f"the download of {file} broke off ({_detail(error)}); nothing of it was kept, so run "
            "the same command again"
        )
    return None


def _cache() -> str:
    return str(importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)


def _detail(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] or type(error).__name__
