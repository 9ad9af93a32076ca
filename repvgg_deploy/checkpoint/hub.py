"""``hf:OWNER/REPO[@revision][:file]``: a checkpoint from the Hugging Face hub.

huggingface_hub does the work; its cache, offline mode, token and endpoint are as that library and
its environment variables have them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..optional import require
from .hub_errors import explained, unanswered
from .hub_library import cached_folder, list_files, quiet

PREFIX = "hf:"
GRAMMAR = "hf:OWNER/REPO[@revision][:file], such as hf:timm/repvgg_a0.rvgg_in1k"
_NAME = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFERRED = ("model.safetensors", "pytorch_model.bin")
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".pkl")
_SHOWN = 12  # names in a sentence


@dataclass(frozen=True)
class HubFile:
    """What ``hf:...`` asks for: ``repo`` is OWNER/REPO; without a file, fetch picks one."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}" + (f":{self.file}" if self.file else "")


@dataclass(frozen=True)
class HubCheckpoint:
    """A file in the cache. ``name`` suits a model, ``origin`` names the commit it is from."""

    path: Path
    name: str
    origin: str


def parse_hub(text: str) -> HubFile | None:
    """What ``hf:OWNER/REPO[@revision][:file]`` asks for; None where the text has no ``hf:``.

    Raises:
        UserError: the text starts with ``hf:`` but is not of that form.
    """
    if not text.startswith(PREFIX):
        return None
    before, colon, file = text.removeprefix(PREFIX).partition(":")
    repo, at, revision = before.partition("@")
    names = repo.split("/")
    if len(names) != 2 or not all(_NAME.fullmatch(name) for name in names):
        raise UserError(f"{text}: {repo!r} is no OWNER/REPO of the hub; write {GRAMMAR}.")
    if at and not _is_plain(revision):
        raise UserError(
            f"{text}: {revision!r} is no branch, tag or commit; write {GRAMMAR}, "
            "where a revision follows the @."
        )
    if colon and not _is_plain(file):
        raise UserError(
            f"{text}: {file!r} is no path of a file in the repository; write {GRAMMAR}, "
            "where a path such as weights/model.safetensors may follow the last colon."
        )
    return HubFile(repo, revision or None, file or None)


def fetch(wanted: HubFile) -> HubCheckpoint:
    """The file's place in the cache of huggingface_hub, downloaded where it is not there yet.

    Without a file: model.safetensors, else pytorch_model.bin, else the only file that has the
    ending of a checkpoint. Offline, or with the hub down, what an earlier download left will do.

    Raises:
        UserError: huggingface_hub is not installed; no such repository, revision or file, or more
            than one to choose from; access refused; the hub cannot be reached and the file is not
            in the cache; the download broke off; the cache cannot be written to.
    """
    api = require("huggingface_hub").HfApi()
    with quiet():
        if wanted.file and wanted.revision and _COMMIT.fullmatch(wanted.revision):
            found = _from_cache(api, wanted)  # a commit never changes: no need to ask
            if found is not None:
                return found
        try:
            with explained(wanted, wanted.repo, api):
                names = list_files(api, wanted.repo, wanted.revision)
        except UserError as error:
            found = _from_cache(api, wanted) if unanswered(error.__cause__) else None
            if found is None:
                raise
            return found
        names = sorted(name for name in names if _is_plain(name))
        file = wanted.file or _pick(names, wanted)
        if file is None or file not in names:
            what = "no such file in" if file else "no checkpoint in"
            raise UserError(f"{wanted}: {what} the repository, which holds {_listed(names)}.")
        with explained(wanted, wanted.repo, api, download=file):
            path = Path(api.hf_hub_download(wanted.repo, file, revision=wanted.revision))
    return _checkpoint(path, file, wanted)


def _from_cache(api: Any, wanted: HubFile) -> HubCheckpoint | None:
    """What fetch would give, from earlier downloads alone."""
    folder = cached_folder(api, wanted.repo, wanted.revision)
    if folder is None:
        return None
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    file = wanted.file or _pick(names, wanted)
    return _checkpoint(folder / file, file, wanted) if file in names else None


def _pick(names: list[str], wanted: HubFile) -> str | None:
    """The checkpoint among a repository's files, None without any."""
    for name in _PREFERRED:
        if name in names:
            return name
    candidates = [name for name in names if name.endswith(_ENDINGS)]
    if len(candidates) > 1:
        raise UserError(
            f"{wanted}: the repository holds several files that may be the checkpoint "
            f"({_listed(candidates)}); name one, as in {wanted}:{candidates[0]}."
        )
    return candidates[0] if candidates else None


def _checkpoint(path: Path, file: str, wanted: HubFile) -> HubCheckpoint:
    """The cache keeps a file as ``snapshots/COMMIT/FILE``."""
    commit = path.parents[file.count("/")].name
    return HubCheckpoint(path, wanted.repo.split("/")[1], str(HubFile(wanted.repo, commit, file)))


def _is_plain(path: str) -> bool:
    """Whether this is a path below its root in the form that git has it."""
    parts = path.split("/")
    return path.isprintable() and not (set(parts) & {"", ".", ".."} or set(path) & set("\\:"))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more
