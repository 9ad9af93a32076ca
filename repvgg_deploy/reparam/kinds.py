"""One family for each kind of block: no file mixes code bases, or eps, in blocks of one kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .blocks import TrainBlock
from .families import YOLO_EPS

#: Paths of YOLO's code bases, which set batch norm's eps on every module when they build a model.
_YOLO_PLACE = re.compile(r"(^|\.)model\.\d+(\.|$)")


@dataclass(frozen=True)
class Reading:
    """Some keys read as a block.

    ``here``: this is a place where its family has such blocks. ``stranger``: a tensor under its
    path that the family does not define, so it is none; empty for a block.
    """

    block: TrainBlock
    keys: frozenset[str]
    here: bool
    wanted: bool
    stranger: str

    @property
    def is_likely(self) -> bool:
        """Whether the names mean a block at this place."""
        return self.here or not self.block.family.only_there

    @property
    def name(self) -> str:
        """The code base."""
        return self.block.family.family


#: Readings of the same keys, of which one at most is right.
Place = list[Reading]


def by_kind(places: Iterable[Place]) -> list[list[Place]]:
    """The places by kind: two are of one kind if some code base could have the blocks of both."""
    kinds: list[tuple[set[str], list[Place]]] = []
    for place in places:
        names, joined = {reading.name for reading in place}, [place]
        for kind in [kind for kind in kinds if kind[0] & names]:
            names |= kind[0]
            joined = [*kind[1], *joined]
            kinds.remove(kind)
        kinds.append((names, joined))
    return [kind for _, kind in kinds]


def decide(
    kind: Sequence[Place], asked: bool, eps_known: bool
) -> tuple[list[Reading], dict[str, str]]:
    """One reading for each place of a kind, all of one code base; or paths left with the reason.

    It is the first code base in the table that has such blocks at all of these places. ``asked``
    and ``eps_known`` as of find_blocks.

    Raises:
        UserError: the places speak for several code bases.
    """
    alike = _chosen(kind, eps_known)
    if alike is None:
        likely = [[reading for reading in place if reading.is_likely] for place in kind]
        if any(reading.here for place in likely for reading in place):
            raise UserError(_contradiction(likely))
        return [], {place[0].block.path: _unclear(place) for place in likely}
    if not (asked or eps_known) and (where := _yolo_place(alike)):
        return [], {reading.block.path: _unclear_eps(reading, where) for reading in alike}
    return alike, {}


def _chosen(kind: Sequence[Place], eps_known: bool) -> list[Reading] | None:
    """One reading for each place, all of one code base; None where nothing tells which."""
    for reading in kind[0]:
        alike = [[r for r in place if r.here and r.name == reading.name] for place in kind]
        if all(alike):
            return [readings[0] for readings in alike]
    if eps_known:
        for reading in kind[0]:
            alike = [[r for r in place if r.is_likely and r.name == reading.name] for place in kind]
            likely = [[r for r in place if r.is_likely] for place in kind]
            if all(alike) and all(len({_all_but_eps(r) for r in p}) == 1 for p in likely):
                return [readings[0] for readings in alike]
    return None


def _all_but_eps(reading: Reading) -> object:
    """What a fused file depends on besides batch norm's eps."""
    block = reading.block
    return block.fused_keys, block.branches, block.outer_norm, block.family.keeps_branches


def _yolo_place(readings: Sequence[Reading]) -> str:
    """The path of a block where YOLO code bases have theirs, though its family's eps differs."""
    paths = (r.block.path for r in readings if r.block.family.eps != YOLO_EPS)
    return next(filter(_YOLO_PLACE.search, paths), "")


def _choices(readings: Iterable[Reading]) -> str:
    families = dict.fromkeys((r.name, r.block.family.eps) for r in readings)
    return " or ".join(f"--family {name} (eps {eps:g})" for name, eps in families)


def _unclear(alike: Place) -> str:
    if len(alike) == 1:
        return f"no place where {alike[0].name} has such blocks; say {_choices(alike)}."
    return (
        f"{len(alike)} code bases name their blocks so, with different batch-norm eps, and nothing "
        f"in the file tells which this is; say {_choices(alike)}."
    )


def _unclear_eps(reading: Reading, where: str) -> str:
    return (
        f"{reading.name} has batch-norm eps {reading.block.eps():g}, but {where} is a path as in "
        f"YOLO code bases, which set {YOLO_EPS:g}; say {_choices([reading])} or --eps {YOLO_EPS:g}."
    )


def _contradiction(kind: Sequence[Place]) -> str:
    """Blocks of one kind whose places speak for several code bases."""
    here = {reading.name: reading for place in kind for reading in place if reading.here}
    said = [f"{reading.block.path} is where {name} has them" for name, reading in here.items()]
    said += [f"{p[0].block.path} where none has" for p in kind if not any(r.here for r in p)][:1]
    return (
        f"{len(kind)} blocks have the same names, but {', '.join(said)}; nothing tells which code "
        f"base and batch-norm eps are theirs, so say {_choices(r for p in kind for r in p)}."
    )
