"""Finding re-parameterizable blocks in a state dict, from keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .blocks import Misfit, State, Step, TrainBlock, below, read_block
from .closed_world import Names, deployed_blocks, training_strangers
from .families import FAMILIES, FAMILY_NAMES
from .family import NUMBER, BlockFamily
from .kinds import Place, Reading, by_kind, decide


@dataclass(frozen=True)
class Found:
    """Blocks in the order of the file; ``left`` maps the path of what was not taken to a reason.

    ``deployed`` are the paths of blocks in deploy form, none where some block is of no known form.
    """

    blocks: list[TrainBlock]
    left: dict[str, str]
    deployed: list[str]


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

    A block is taken only if its family defines every tensor under its path (see closed_world), and
    all blocks of one kind are taken for the same family.

    ``asked``: ``families`` were asked for by name, so they are found wherever they stand, and what
    is found of others is named as left. ``eps_known``: batch norm's eps is given, so it is no
    matter which of the families that differ in nothing else a block belongs to. ``megengine``:
    kernels of five dimensions are grouped ones.

    Raises:
        UserError: a block of a family that the file has is damaged, or places contradict each
            other about the family of one kind of block.
    """
    search = _Search(state, families, asked, megengine)
    search.take_blocks(eps_known)
    search.take_plain_layers(eps_known)
    search.name_others()
    deployed = [] if search.left else search.deployed
    search.check_whole()
    order = {key: place for place, key in enumerate(state)}
    search.blocks.sort(key=lambda block: min(order[key] for key in block.keys(state)))
    return Found(search.blocks, search.left, deployed)


class _Search:
    """Every reading that a state dict allows, and what was taken or left so far."""

    def __init__(
        self, state: State, families: Sequence[BlockFamily], asked: bool, megengine: bool
    ) -> None:
        self._state, self._megengine, self._families = state, megengine, families
        self._asked, self._names = asked, Names(state)
        self.blocks: list[TrainBlock] = []
        self.deployed, self.left = deployed_blocks(state, self._names)
        self._taken: set[str] = set()
        self._present: set[str] = set()
        self._misfits: list[tuple[BlockFamily, str, Misfit]] = []
        self._by_key: dict[str, list[Reading]] = {}
        others = [family for family in FAMILIES if family not in families and not family.on_request]
        self._readings = [
            *(r for f in families if not f.is_plain_layer for r in self._read(f, wanted=True)),
            *(r for f in others if not f.is_plain_layer for r in self._read(f, wanted=False)),
        ]
        for reading in self._readings:
            for key in reading.keys:
                self._by_key.setdefault(key, []).append(reading)

    def _read(self, family: BlockFamily, wanted: bool) -> Iterator[Reading]:
        for path, start in _candidates(self._state, family).items():
            here = bool((wanted and self._asked) or re.search(family.where, path))
            try:
                block = read_block(self._state, path, family, self._megengine)
            except Misfit as misfit:
                if wanted and (here or not family.only_there):
                    self._misfits.append((family, start, misfit))
                continue
            if block is None or not any(branch.kernel_key for branch in block.branches):
                continue
            keys = frozenset([*block.keys(self._state), *self._norm_of(path, family)])
            strangers = training_strangers(self._names.under(path), block)
            if family.keeps_branches and strangers and set(strangers) <= _fused_names(family):
                self.deployed.append(path)
                continue
            yield Reading(block, keys, here, wanted, next(iter(strangers), ""))

    def _norm_of(self, path: str, family: BlockFamily) -> list[str]:
        """Keys of the batch norm after the sum: a part of the block, though it may stay."""
        if not family.outer_norm:
            return []
        return Step("norm", below(path, family.outer_norm)).keys(self._state)

    def _larger(self, keys: frozenset[str]) -> list[Reading]:
        """The readings that these keys are but a part of."""
        return [r for r in self._by_key.get(next(iter(keys)), ()) if keys < r.keys]

    def _take(self, block: TrainBlock, keys: frozenset[str]) -> None:
        self._taken.update(keys)
        self.blocks.append(block)
        self._present.add(block.family.family)

    def take_blocks(self, eps_known: bool) -> None:
        """Every kind of block goes to one family, or stays."""
        for kind in by_kind(self._places()):
            readings, left = decide(kind, self._asked, eps_known)
            self.left.update(left)
            for reading in readings:
                if self._taken.isdisjoint(reading.keys):
                    self._take(reading.block, reading.keys)

    def _places(self) -> Iterator[Place]:
        """What may be taken, by place: blocks that are no part of a larger one, fit or not."""
        places: dict[frozenset[str], Place] = {}
        for reading in self._readings:
            larger = (r for r in self._larger(reading.keys) if r.is_likely or not r.stranger)
            if reading.wanted and not reading.stranger and not any(larger):
                places.setdefault(reading.keys, []).append(reading)
        for place in places.values():
            paths = {reading.block.path for reading in place if reading.is_likely}
            if alike := [reading for reading in place if reading.block.path in paths]:
                yield alike

    def take_plain_layers(self, eps_known: bool) -> None:
        """Convolutions of the families found, unless they are parts of blocks.

        Beside blocks of several eps nothing tells which code base a ``conv`` and ``bn`` are of.
        """
        mixed = not eps_known and len({block.family.eps for block in self.blocks}) > 1
        for family in self._families:
            if not family.is_plain_layer or family.family not in self._present:
                continue
            for path in _candidates(self._state, family):
                try:
                    block = read_block(self._state, path, family, self._megengine)
                except Misfit:
                    continue
                if block is not None:
                    keys = frozenset(block.keys(self._state))
                    self._take_plain(block, keys, mixed and family.companion)

    def _take_plain(self, block: TrainBlock, keys: frozenset[str], mixed: bool) -> None:
        is_part = any(reading.is_likely for reading in self._larger(keys))
        if is_part or not self._taken.isdisjoint(keys):
            return
        if strangers := training_strangers(self._names.under(block.path), block):
            self.left.setdefault(block.path, _too_many(block, strangers[0]))
        elif mixed:
            self.left.setdefault(
                block.path,
                "the file has blocks of several code bases with different batch-norm eps, and "
                "nothing tells which of them this layer is of; say --family or --eps",
            )
        else:
            self._take(block, keys)

    def name_others(self) -> None:
        """Name what looks like a block and was not taken: another family's, or none at all."""
        for reading in self._readings:
            path, block = reading.block.path, reading.block
            larger = [r for r in self._larger(reading.keys) if not r.stranger]
            if not (reading.here or (reading.stranger and reading.is_likely)):
                continue
            if not self._taken.isdisjoint(reading.keys) or path in self.left:
                continue
            if not reading.wanted:
                if not larger and not reading.stranger:
                    self.left[path] = (
                        f"is of {reading.name}, and --family asks for "
                        f"{self._families[0].family} alone"
                    )
            elif larger:
                other = larger[0].block.family
                self.left[path] = (
                    f"looks like a part of what {other.family} calls {other.block}; "
                    f"--family {other.family} takes that"
                )
            elif reading.stranger:
                self.left[path] = _too_many(block, reading.stranger)

    def check_whole(self) -> None:
        """Refuse damaged blocks of the families found; name what looks like a part of a block."""
        untaken = _paths(key for key in self._state if key not in self._taken)
        for family, start, misfit in sorted(self._misfits, key=lambda found: not found[2].damaged):
            torn_apart = start in self._taken  # another entry fits, but perhaps a part only
            if torn_apart and untaken.isdisjoint(_branch_paths(misfit.path, family)):
                continue
            if not torn_apart and self._present and family.family not in self._present:
                continue
            if torn_apart or (misfit.damaged and self._present):
                raise UserError(f"block {misfit.path}: {misfit.reason}")
            self.left.setdefault(
                misfit.path,
                f"looks like {family.block} of {family.family}, but {misfit.reason}",
            )


def _too_many(block: TrainBlock, stranger: str) -> str:
    family = block.family
    return (
        f"looks like {family.block} of {family.family}, but holds {stranger}, which that block "
        "does not have"
    )


def _fused_names(family: BlockFamily) -> set[str]:
    return {f"{family.fused}.weight", f"{family.fused}.bias"}


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
