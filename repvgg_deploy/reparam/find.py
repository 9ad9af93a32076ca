"""Finding re-parameterizable blocks in a state dict, from keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
    state: State,
    families: Sequence[BlockFamily] = FAMILIES,
    *,
    anywhere: bool = False,
    eps_known: bool = False,
    others: Iterable[TrainBlock] = (),
) -> Found:
    """All blocks in training form; the first family that fits takes a block.

    ``anywhere``: families are not told apart by where their blocks stand. ``eps_known``: batch
    norm's eps is given, so it is no matter which of the families that differ in nothing else a
    block belongs to. ``others``: blocks of which no part alone is a block.

    Raises:
        UserError: a block of a family that the file has is damaged, or it is unclear whose block,
            and so with which eps, one is.
    """
    search = _Search(state, anywhere, others)
    for family in sorted(families, key=lambda family: family.companion):
        if not family.companion or family.family in search.present:
            search.look_for(family)
    search.decide_elsewhere(eps_known)
    order = {key: place for place, key in enumerate(state)}
    search.blocks.sort(key=lambda block: min(order[key] for key in block.keys(state)))
    return Found(search.blocks, search.left())


class _Search:
    """What was found so far. ``elsewhere``: blocks not where their family has them."""

    def __init__(self, state: State, anywhere: bool, others: Iterable[TrainBlock]) -> None:
        self._state, self._anywhere = state, anywhere
        wholes = (set(block.keys(state)) for block in others)
        self._whole = {key: whole for whole in wholes for key in whole}
        self.blocks: list[TrainBlock] = []
        self.present: set[str] = set()
        self._taken: set[str] = set()
        self._misfits: list[tuple[BlockFamily, str, Misfit]] = []
        self._elsewhere: dict[str, list[TrainBlock]] = {}

    def look_for(self, family: BlockFamily) -> None:
        """Take every block of one family that nobody has taken."""
        for path, start in _candidates(self._state, family).items():
            there = bool(re.search(family.where, path))
            if family.only_there and not there:
                continue
            try:
                block = None if start in self._taken else read_block(self._state, path, family)
            except Misfit as misfit:
                self._misfits.append((family, start, misfit))
                continue
            if block is None or not any(branch.kernel_key for branch in block.branches):
                continue
            if not self._is_free(block):
                continue
            if there or self._anywhere:
                self._take(block)
            else:
                self._elsewhere.setdefault(start, []).append(block)

    def _is_free(self, block: TrainBlock) -> bool:
        keys = set(block.keys(self._state))
        is_part = any(keys < self._whole[key] for key in keys & self._whole.keys())
        return self._taken.isdisjoint(keys) and not is_part

    def _take(self, block: TrainBlock) -> None:
        self._taken.update(block.keys(self._state))
        self.blocks.append(block)
        self.present.add(block.family.family)

    def decide_elsewhere(self, eps_known: bool) -> None:
        for start, alike in self._elsewhere.items():
            differ = {block.fused_keys if eps_known else block.eps() for block in alike}
            if start in self._taken:
                continue
            if len(differ) > 1:
                raise UserError(_ambiguous(alike))
            if eps_known:
                self._take(alike[0])

    def left(self) -> dict[str, str]:
        """What looks like a block of a family that the file has (or of any, if it has none)."""
        left: dict[str, str] = {}
        for family, start, misfit in self._misfits:
            if family.companion:
                continue
            torn = start in self._taken  # another entry fits, but perhaps only a part of a block
            if torn and self._taken.issuperset(_parts(self._state, misfit.path, family)):
                continue
            if not torn and self.present and family.family not in self.present:
                continue
            if torn or (misfit.damaged and self.present):
                raise UserError(f"block {misfit.path}: {misfit.reason}")
            left.setdefault(misfit.path, misfit.reason)
        return left


def _ambiguous(alike: Sequence[TrainBlock]) -> str:
    choices = " or ".join(f"--family {b.family.family} (eps {b.eps():g})" for b in alike)
    return (
        f"block {alike[0].path}: {len(alike)} code bases name their blocks so, with different "
        f"batch-norm eps, and nothing in the file tells which this is; say {choices}."
    )


def _parts(state: State, path: str, family: BlockFamily) -> set[str]:
    """Keys under the names that a block of ``family`` at ``path`` gives to its branches."""
    steps = (step.partition(NUMBER)[0] for branch in family.branches for step in branch.steps)
    names = {below(path, step.rstrip(".")) for step in steps}
    inside = tuple(f"{name}." for name in names)
    return {key for key in state if key in names or key.startswith(inside)}


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
