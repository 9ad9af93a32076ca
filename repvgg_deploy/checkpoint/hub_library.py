"""What we ask of huggingface_hub. It is optional, so its objects are Any."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's warnings off stderr; its progress bars need a terminal anyway."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def list_files(api: Any, repo: str, revision: str | None) -> list[str]:
    """Names of a repository's files, as the hub tells them."""
    seconds = importlib.import_module("huggingface_hub.constants").HF_HUB_ETAG_TIMEOUT
    info = api.model_info(repo, revision=revision, timeout=seconds)
    return [entry.rfilename for entry in info.siblings or []]


def cached_folder(api: Any, repo: str, revision: str | None) -> Path | None:
    """Where the cache holds what was downloaded of a revision; None where nothing was."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        return Path(api.snapshot_download(repo, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError as error:
        folder = getattr(error, "snapshot_path", None)  # set where only other files are missing
        return None if folder is None else Path(folder)
