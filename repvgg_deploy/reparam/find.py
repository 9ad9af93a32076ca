"""Finding re-parameterizable blocks in a state dict, from keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .blocks import Misfit, State, Step, TrainBlock, below, read_block
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
    asked: bool = False,
    eps_known: bool = False,
    megengine: bool = False,
) -> Found:
    """All blocks in training form. Of two readings, one a part of the other, the larger is right.

    ``asked``: ``families`` were asked for by name, so they are found wherever they stand, and what
    is found of others is named as left. ``eps_known``: batch norm's eps is given, so it is no
    matter which of the families that differ in nothing else a block belongs to. ``megengine``:
    kernels of five dimensions are grouped ones.

    Raises:
        UserError: a block of a family that the file has is damaged.
    """
    search = _Search(state, families, asked, megengine)
    search.take_blocks()
    search.decide_elsewhere(eps_known)
    search.take_plain_layers()
    search.check_whole()
    order = {key: place for place, key in enumerate(state)}
    search.blocks.sort(key=lambda block: min(order[key] for key in block.keys(state)))
    return Found(search.blocks, search.left)


@dataclass(frozen=True)
class _Reading:
    """Some keys read as a block; ``here``: this is a place where its family has such blocks."""

    block: TrainBlock
    keys: frozenset[str]
    here: bool
    wanted: bool

    @property
    def is_likely(self) -> bool:
        """Whether the names mean a block at this place."""
        return self.here or not self.block.family.only_there


class _Search:
    """Every reading that a state dict allows, and what was taken or left so far."""

    def __init__(
        self, state: State, families: Sequence[BlockFamily], asked: bool, megengine: bool
    ) -> None:
        self._state, self._megengine, self._families = state, megengine, families
        self.blocks: list[TrainBlock] = []
        self.left: dict[str, str] = {}
        self._taken: set[str] = set()
        self._present: set[str] = set()
        self._misfits: list[tuple[BlockFamily, str, Misfit]] = []
        self._by_key: dict[str, list[_Reading]] = {}
        others = [family for family in FAMILIES if family not in families and not family.on_request]
        readings = [
            *(reading for f in families if not f.companion for reading in self._read(f, asked)),
            *(reading for f in others if not f.companion for reading in self._read(f, None)),
        ]
        for reading in readings:
            for key in reading.keys:
                self._by_key.setdefault(key, []).append(reading)
        self._readings = readings

    def _read(self, family: BlockFamily, asked: bool | None) -> Iterator[_Reading]:
        """``asked`` None: of a family that is not wanted."""
        for path, start in _candidates(self._state, family).items():
            here = bool(asked or re.search(family.where, path))
            try:
                block = read_block(self._state, path, family, self._megengine)
            except Misfit as misfit:
                if asked is not None and (here or not family.only_there):
                    self._misfits.append((family, start, misfit))
                continue
            if block is not None and any(branch.kernel_key for branch in block.branches):
                keys = frozenset([*block.keys(self._state), *self._norm_of(path, family)])
                yield _Reading(block, keys, here, asked is not None)

    def _norm_of(self, path: str, family: BlockFamily) -> list[str]:
        """Keys of the batch norm after the sum: a part of the block, though it may stay."""
        if not family.outer_norm:
            return []
        return Step("norm", below(path, family.outer_norm)).keys(self._state)

    def _larger(self, keys: frozenset[str]) -> list[_Reading]:
        """The readings that these keys are but a part of."""
        return [r for r in self._by_key.get(next(iter(keys)), ()) if keys < r.keys]

    def _take(self, block: TrainBlock, keys: frozenset[str]) -> None:
        self._taken.update(keys)
        self.blocks.append(block)
        self._present.add(block.family.family)

    def take_blocks(self) -> None:
        """The first family in the table that has a block at its place takes it."""
        whole = [reading for reading in self._readings if not self._larger(reading.keys)]
        for reading in whole:
            if reading.wanted and reading.here and self._taken.isdisjoint(reading.keys):
                self._take(reading.block, reading.keys)
        for reading in self._readings:
            if not reading.here or reading.keys <= self._taken:
                continue
            larger, family = self._larger(reading.keys), reading.block.family.family
            if not reading.wanted and not larger:
                self.left[reading.block.path] = (
                    f"is of {family}, and --family asks for {self._families[0].family} alone"
                )
            elif reading.wanted and larger:
                other = larger[0].block.family
                self.left[reading.block.path] = (
                    f"looks like a part of what {other.family} calls {other.block}; "
                    f"--family {other.family} takes that"
                )

    def decide_elsewhere(self, eps_known: bool) -> None:
        """Blocks not where their families have them: taken only where it is clear how."""
        places: dict[frozenset[str], list[TrainBlock]] = {}
        for reading in self._readings:
            elsewhere = reading.wanted and reading.is_likely and not reading.here
            if elsewhere and not self._larger(reading.keys):
                places.setdefault(reading.keys, []).append(reading.block)
        for keys, alike in places.items():
            if not self._taken.isdisjoint(keys):
                continue
            if eps_known and len({block.fused_keys for block in alike}) == 1:
                self._take(alike[0], keys)
            else:
                self.left[alike[0].path] = _unclear(alike)

    def take_plain_layers(self) -> None:
        """Convolutions of the families found, unless they are parts of blocks."""
        for family in self._families:
            if not family.companion or family.family not in self._present:
                continue
            for path in _candidates(self._state, family):
                try:
                    block = read_block(self._state, path, family, self._megengine)
                except Misfit:
                    continue
                if block is not None:
                    self._take_plain(block, frozenset(block.keys(self._state)))

    def _take_plain(self, block: TrainBlock, keys: frozenset[str]) -> None:
        is_part = any(reading.is_likely for reading in self._larger(keys))
        if self._taken.isdisjoint(keys) and not is_part:
            self._take(block, keys)

    def check_whole(self) -> None:
        """Refuse blocks taken in part; name what looks like a block that the file might have."""
        untaken = _paths(key for key in self._state if key not in self._taken)
        for block in self.blocks:
            if torn := untaken & _branch_paths(block.path, block.family):
                raise UserError(
                    f"block {block.path}: {min(torn)} is no whole branch of it; fuse needs every "
                    "tensor, so use the checkpoint as training saved it."
                )
        for family, start, misfit in self._misfits:
            torn_apart = start in self._taken  # another entry fits, but perhaps a part only
            if torn_apart and untaken.isdisjoint(_branch_paths(misfit.path, family)):
                continue
            if not torn_apart and self._present and family.family not in self._present:
                continue
            if torn_apart or (misfit.damaged and self._present):
                raise UserError(f"block {misfit.path}: {misfit.reason}")
            self.left.setdefault(misfit.path, misfit.reason)


def _unclear(alike: Sequence[TrainBlock]) -> str:
    choices = " or ".join(f"--family {b.family.family} (eps {b.eps():g})" for b in alike)
    if len(alike) == 1:
        return f"no place where {alike[0].family.family} has such blocks; say {choices}."
    return (
        f"{len(alike)} code bases name their blocks so, with different batch-norm eps, and nothing "
        f"in the file tells which this is; say {choices}."
    )


def _paths(keys: Iterable[str]) -> set[str]:
    """The keys, and every path that some of them are below."""
    parts = (key.split(".") for key in keys)
    return {".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)}


def _branch_paths(path: str, family: BlockFamily) -> set[str]:
    """What a block of ``family`` at ``path`` calls its branches."""
    steps = (step.partition(NUMBER)[0] for branch in family.branches for step in branch.steps)
    return {below(path, step.rstrip(".")) for step in steps}


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
