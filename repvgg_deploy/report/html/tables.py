"""What a page shows that spans several parts of a report: the tree, and accuracy beside speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...steps.lineage.parts import Compared, FileEntry, Proof
    from ...steps.lineage.record import Accuracy, Doubt, Report, Timing

#: Nested deeper than this, an environment is no environment.
_DEEPEST = 4


@dataclass
class Node:
    """A file, and what was made from it; the names of the workspace's files are short already."""

    file: FileEntry
    title: str
    children: list[Node] = field(default_factory=list)


def tree(files: Sequence[FileEntry]) -> list[Node]:
    """The roots; a file whose source is not listed is one, and so is one that made itself."""
    nodes = {file.name: Node(file, basename(file.name)) for file in files}
    roots = []
    for file in files:
        parent = nodes.get(file.source or "")
        if parent is None or _is_below(file.source, file.name, files):
            roots.append(nodes[file.name])
        else:
            parent.children.append(nodes[file.name])
    return roots


def _is_below(name: str | None, above: str, files: Sequence[FileEntry]) -> bool:
    """Whether ``name`` was made from ``above``: sidecars may name one another in a ring."""
    sources = {file.name: file.source for file in files}
    for _ in files:
        if name is None or name == above:
            break
        name = sources.get(name)
    return name == above


def basename(path: str) -> str:
    """Of a path of any system, or of the Hugging Face hub."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def worst(proof: Proof) -> Compared | None:
    """The part with the largest ratio; a failed one, which may have none, before all others."""
    return max(
        proof.compared,
        key=lambda one: (not one.passed, one.ratio is None, one.ratio or 0),
        default=None,
    )


@dataclass(frozen=True)
class Tradeoff:
    """A network's accuracy beside its largest throughput, either may be missing."""

    name: str
    runtime: str
    accuracy: Accuracy | None
    agreement: float | None
    sqnr_db: float | None
    timing: Timing | None


def tradeoff(report: Report) -> list[Tradeoff]:
    """By the evaluation where there is one, else of the int8 models as quantize measured them."""
    if report.evaluation is not None:
        return [
            Tradeoff(
                one.name, one.runtime, one, one.agreement.value, one.sqnr_db,
                fastest(report, one.file),
            )
            for one in report.evaluation.networks
        ]  # fmt: skip
    return [
        Tradeoff(
            proof.target, "quantize", None, proof.likeness.agreement, proof.likeness.sqnr_db,
            fastest(report, proof.target),
        )
        for proof in report.proofs
        if proof.likeness is not None
    ]  # fmt: skip


def fastest(report: Report, file: str) -> Timing | None:
    """The timing of a file with most images a second; None: it was not measured."""
    timings = () if report.speed is None else report.speed.timings
    found = [one for one in timings if one.file == file]
    return max(found, key=lambda one: one.images_per_second, default=None)


def by_contest(doubts: Sequence[Doubt]) -> dict[tuple[str, int], list[str]]:
    """Texts by runtime and batch, in their order."""
    found: dict[tuple[str, int], list[str]] = {}
    for one in doubts:
        found.setdefault((one.runtime, one.batch), []).append(one.text)
    return found


def flat(
    data: Mapping[str, Any], none: str = "not known", depth: int = 0
) -> Iterator[tuple[str, str]]:
    """Names and values in words, of whatever a benchmark found its machine to be."""
    for name, value in data.items():
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            yield from ((f"{name}, {inner}", text) for inner, text in flat(value, none, depth + 1))
        else:
            yield name, _words(value, none)


def _words(value: object, none: str) -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_words(one, none) for one in value) or none
    return str(value)


def operator_names(report: Report) -> list[str]:
    """Of all forms, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in report.operators for name in one.counts))
