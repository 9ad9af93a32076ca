"""The closed world: a block is one of its family only if the family defines all that is in it.

A block with one tensor more computes something else: a factor on a branch, a branch more, a batch
norm after the sum. So every name under a block's path has to be one that its family defines; names
of the parent path belong to the parent. State dicts and modules ask here. In an ONNX graph there
are no families: a region is fused along its data flow (reparam/graph/regions.py), where every
operand of every node is accounted for, so nothing can be left over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import accumulate

from .blocks import LEAVES, State, TrainBlock, below, keeps_outer_norm
from .families import FAMILIES
from .family import BlockFamily

#: Names of fused convolutions that say what they are; others (``conv``) any layer may have.
_TELLING = {family.fused for family in FAMILIES if "reparam" in family.fused}


class Names:
    """The names of tensors by the paths that they are under."""

    def __init__(self, names: Iterable[str]) -> None:
        self._under: dict[str, list[str]] = {"": []}
        for name in names:
            for path in ("", *accumulate(name.split(".")[:-1], below)):
                self._under.setdefault(path, []).append(name)

    def under(self, path: str) -> list[str]:
        """Those under a path, in order; the root's is empty."""
        return self._under.get(path, [])


def training_strangers(names: Iterable[str], block: TrainBlock) -> list[str]:
    """The names under a training-form block that its family does not define, relative to its path.

    ``names`` are the full names of tensors (or of modules without any) under ``block.path``.
    """
    family = block.family
    defined = {below(block.path, branch.attribute) for branch in family.branches}
    for step in block.steps():
        defined |= {step.name} if step.kind == "scale" else _layer(step.name)
    if family.outer_norm:
        defined |= _layer(below(block.path, family.outer_norm))
    return _outside(names, block.path, defined, family.tail)


def deploy_strangers(
    state: State, names: Iterable[str], path: str, family: BlockFamily
) -> list[str]:
    """The same for the family's own deploy form: the fused convolution, and what it keeps."""
    defined = _layer(below(path, family.fused))
    if family.outer_norm and keeps_outer_norm(state, path, family):
        defined |= _layer(below(path, family.outer_norm))
    return _outside(names, path, defined, family.tail)


def deployed_blocks(
    state: State, names: Names, families: Iterable[BlockFamily] = FAMILIES
) -> tuple[list[str], dict[str, str]]:
    """Paths of blocks that are fused already; and of those that only look so, with the reason.

    A fused convolution alone is no proof: some training checkpoints hold one beside the branches,
    with random weights that nothing uses (YOLO-NAS).
    """
    deployed: list[str] = []
    placeholders: dict[str, str] = {}
    for key in state:
        name, _, leaf = key.rpartition(".")
        path, _, fused = name.rpartition(".")
        if leaf != "weight" or fused not in _TELLING:
            continue
        under = names.under(path)
        strangers = [
            deploy_strangers(state, under, path, family)
            for family in families
            if family.fused == fused
        ]
        if [] not in strangers:
            fewest = min(strangers, key=len)
            placeholders[path] = (
                f"holds {fused}.weight beside {fewest[0]}, so it is no fused block of a code base "
                "known here, and nothing tells which of them the network computes with"
            )
        elif f"{name}.bias" not in state:
            placeholders[path] = f"holds {fused}.weight without {fused}.bias"
        else:
            deployed.append(path)
    return deployed, placeholders


def _layer(name: str) -> set[str]:
    return {name, *(f"{name}.{leaf}" for leaf in LEAVES)}


def _outside(
    names: Iterable[str], path: str, defined: Collection[str], tail: Collection[str]
) -> list[str]:
    start = len(path) + 1 if path else 0
    relative = (name[start:] for name in names if name not in defined)
    return [name for name in relative if name.split(".")[0] not in tail]
