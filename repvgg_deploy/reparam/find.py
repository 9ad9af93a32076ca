"""Finding re-parameterizable blocks in a state dict, from keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .blocks import Misfit, State, TrainBlock, below, read_block
from .families import FAMILIES, FAMILY_NAMES
from .family import NUMBER, BlockFamily


@dataclass(frozen=True)
class Found:
    """Blocks in the order of the file; ``left`` maps the path of what was not taken to a reason."""

    blocks: list[TrainBlock]
    left: dict[str, str]


def pick_families(name: str | None) -> tuple[BlockFamily, ...]:
    """The part of the table to look for: one code base by name, or all that keys can tell apart.

    Raises:
        UserError: no code base of that name.
    """
    if name is None:
        return tuple(family for family in FAMILIES if not family.on_request)
    picked = tuple(family for family in FAMILIES if family.family == name)
    if not picked:
        raise UserError(f"family {name!r}: unknown; known are {', '.join(FAMILY_NAMES)}.")
    return picked


def find_blocks(
    state: State, families: Sequence[BlockFamily] = FAMILIES, *, anywhere: bool = False
) -> Found:
    """All blocks in training form; the first family that fits takes a block.

    ``anywhere``: families are not told apart by where their blocks stand; for whoever knows batch
    norm's eps from elsewhere.

    Raises:
        UserError: a block of a family that the file has is damaged, or it is unclear whose block,
            and so with which eps, one is.
    """
    blocks: list[TrainBlock] = []
    taken: set[str] = set()
    misfits: list[tuple[BlockFamily, str, Misfit]] = []
    elsewhere: dict[str, list[TrainBlock]] = {}
    present: set[str] = set()
    for family in sorted(families, key=lambda family: family.companion):
        if family.companion and family.family not in present:
            continue
        for path, start in _candidates(state, family).items():
            try:
                block = None if start in taken else read_block(state, path, family)
            except Misfit as misfit:
                misfits.append((family, start, misfit))
                continue
            if block is None or not any(branch.kernel_key for branch in block.branches):
                continue
            if not taken.isdisjoint(keys := block.keys(state)):
                continue
            if not anywhere and not re.search(family.where, path):
                elsewhere.setdefault(start, []).append(block)
                continue
            taken.update(keys)
            blocks.append(block)
            present.add(family.family)
    for start, alike in elsewhere.items():
        if start not in taken and len({block.eps() for block in alike}) > 1:
            raise UserError(_ambiguous(alike))
    order = {key: place for place, key in enumerate(state)}
    blocks.sort(key=lambda block: min(order[key] for key in block.keys(state)))
    return Found(blocks, _left(state, present, taken, misfits))


def _ambiguous(alike: Sequence[TrainBlock]) -> str:
    choices = " or ".join(f"--family {b.family.family} (eps {b.eps():g})" for b in alike)
    return (
        f"block {alike[0].path}: {len(alike)} code bases name their blocks so, with different "
        f"batch-norm eps, and nothing in the file tells which this is; say {choices}."
    )


def _left(
    state: State,
    present: set[str],
    taken: set[str],
    misfits: list[tuple[BlockFamily, str, Misfit]],
) -> dict[str, str]:
    """What looks like a block of a family that the file has (or of any, if it has none)."""
    left: dict[str, str] = {}
    untaken = [key for key in state if key not in taken]
    for family, start, misfit in misfits:
        if family.companion:
            continue
        torn = start in taken  # another entry fits, but perhaps only a part of a block
        if torn and not _has_parts(untaken, misfit.path, family):
            continue
        if not torn and present and family.family not in present:
            continue
        if torn or (misfit.damaged and present):
            raise UserError(f"block {misfit.path}: {misfit.reason}")
        left.setdefault(misfit.path, misfit.reason)
    return left


def _has_parts(keys: Sequence[str], path: str, family: BlockFamily) -> bool:
    """Whether some have a name that a block of ``family`` at ``path`` gives to its branches."""
    steps = (step.partition(NUMBER)[0] for branch in family.branches for step in branch.steps)
    names = {below(path, step.rstrip(".")) for step in steps}
    inside = tuple(f"{name}." for name in names)
    return any(key in names or key.startswith(inside) for key in keys)


def _candidates(state: State, family: BlockFamily) -> dict[str, str]:
    """Paths at which a block may stand, and the key that says so."""
    required = [branch for branch in family.branches if branch.steps and not branch.optional]
    branches = required or [branch for branch in family.branches if branch.steps]
    found: dict[str, str] = {}
    for start in (branch.steps[0].replace(NUMBER, "0") for branch in branches):
        ending = f"{start}.weight"
        for key in state:
            if (
                key.endswith(ending)
                and below(path := key[: -len(ending)].rstrip("."), ending) == key
            ):
                found.setdefault(path, key)
    return found
