"""A folder's checks, as a table and the reasons below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .proof import verdict_dict
from .text import one_line, table

if TYPE_CHECKING:
    from ..steps.chain import Chain
    from ..steps.verdict import Verdict

_KINDS = {
    "hash": "hash",
    "lineage": "made from",
    "stored proof": "stored proof",
    "proof": "proof",
    "truth": "truth",
}
_WORDS = {True: "ok", False: "FAILED", None: "-"}


def chain_text(chain: Chain) -> str:
    """One row a file; a dash is a check that could not be made here."""
    results = {(check.file, check.kind): check.passed for check in chain.checks}
    files = dict.fromkeys(check.file for check in chain.checks)
    made = {check.kind for check in chain.checks}
    kinds = [kind for kind in _KINDS if kind != "truth" or kind in made]
    rows = [  # a check that was not made is a dash too
        (one_line(file), *(_WORDS[results.get((file, kind))] for kind in kinds)) for file in files
    ]
    lines = [table(("file", *(_KINDS[kind] for kind in kinds)), rows)]
    lines += [
        one_line(f"{_WORDS[check.passed]} {check.file}, {_KINDS[check.kind]}: {check.detail}")
        for check in (*chain.failures, *chain.unchecked, *chain.noted)
    ]
    return "\n".join(lines)


def chain_dict(chain: Chain, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """JSON-ready; ``passed`` null is a check that could not be made here."""
    return {
        "folder": str(chain.folder),
        "passed": not chain.failures,
        "checks": [asdict(check) for check in chain.checks],
        "proofs": [verdict_dict(verdict) for verdict in verdicts],
    }
