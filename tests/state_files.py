"""Random checkpoints: some random blocks, and tensors that are none, in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from repvgg_deploy.reparam.families import FAMILIES
from repvgg_deploy.reparam.family import BlockFamily
from repvgg_deploy.reparam.find import pick_families

from .state_blocks import ANYWHERE, PLACES, Made, under

#: Code bases with blocks that are found only when asked for.
ASKED = {family.family for family in FAMILIES if family.on_request}
#: Code bases of which a file can hold one: their blocks have the same names.
ALIKE = (
    {"repvgg", "yolov6", "zcls"},
    {"qarepvgg", "yolov6-qarepvgg"},
    {"rtdetrv2", "yolov9"},
)


@dataclass(frozen=True)
class File:
    """A checkpoint in which ``made`` stand, and the families to look for."""

    state: dict[str, Tensor]
    made: list[Made]
    families: tuple[BlockFamily, ...]


def label(family: BlockFamily) -> str:
    """Entries with one label are told apart by nothing: the plain layers of the YOLOs."""
    return "Conv" if family.companion else f"{family.family} {family.block}"


def make(numbers: Sequence[int], seed: int) -> File:
    """Blocks of these entries of the table, or only those of a code base that must be asked for."""
    pick = random.Random(seed)
    entries = [FAMILIES[number] for number in numbers]
    wanted = list(entries)
    asked = next((family.family for family in wanted if family.family in ASKED), None)
    if asked is not None:
        wanted = [family for family in wanted if family.family == asked]
    for family in entries:
        if family.is_plain_layer and family in wanted:  # looked for beside other blocks only
            wanted.append(
                next(f for f in FAMILIES if f.family == family.family and not f.is_plain_layer)
            )
    for names in ALIKE:
        first = next((family.family for family in wanted if family.family in names), None)
        wanted = [f for f in wanted if f.family not in names or f.family == first]
    if len({family.eps for family in wanted if not family.is_plain_layer}) > 1:
        wanted = [f for f in wanted if not f.companion]  # which would be of either code base
    state: dict[str, Tensor] = {}
    made = []
    for number, family in enumerate(wanted):
        block = Made(_place(family, number, pick, len(wanted) == 1), family, pick.getrandbits(32))
        made.append(block)
        state.update(block.state)
        if family.tail and pick.randrange(3) == 0:
            state[under(block.path, f"{family.tail[-1]}.fc.weight")] = torch.zeros(2, 2)
    at_root = made[0].path == ""  # where everything in the file is the block's
    if pick.randrange(4) == 0 and not at_root:
        tied = pick.choice([key for key in state if key.endswith(".weight")])
        state["decoder.kernel"] = state[tied]
    state.update({} if at_root else _others(pick))
    keys = list(state)
    pick.shuffle(keys)
    return File({key: state[key] for key in keys}, made, pick_families(asked))


def _place(family: BlockFamily, number: int, pick: random.Random, alone: bool) -> str:
    if family.where:
        places = PLACES[family.family]
    else:
        places = ("",) if alone and pick.randrange(5) == 0 else ANYWHERE
    return pick.choice(places).format(number)


def _others(pick: random.Random) -> dict[str, Tensor]:
    """Some of what else is in checkpoints: other layers, counters, tied and empty tensors."""
    state = {
        "fc.weight": torch.ones(4, 3),
        "fc.bias": torch.ones(4),
        "patch.0.weight": torch.ones(4, 3, 2, 2).half(),
        **{f"patch.1.{leaf}": torch.rand(4) for leaf in ("weight", "bias")},
        **{f"patch.1.running_{leaf}": torch.rand(4) for leaf in ("mean", "var")},
        "patch.1.num_batches_tracked": torch.tensor(3),
        "positions": torch.arange(5),
        "temperature": torch.tensor(0.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    state["decoder.weight"] = state["fc.weight"]
    return {key: state[key] for key in pick.sample(sorted(state), pick.randrange(len(state)))}


#: Arguments of :func:`make`; files themselves would be too long to print.
NUMBERS = st.lists(st.integers(0, len(FAMILIES) - 1), min_size=1, max_size=3)
SEEDS = st.integers(0, 2**32 - 1)
