"""Families that the user describes are checked before anything is looked for."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import UserError
from ..family import BlockFamily, Branch
from .swap import FusedBlock


def checked(families: object) -> tuple[BlockFamily, ...]:
    """The user's families.

    Raises:
        UserError: they are not a list of families, or one of them can describe no block.
    """
    if not isinstance(families, (list, tuple)):
        kind = type(families).__name__
        raise UserError(f"families: a list of BlockFamily is needed, not a {kind}.")
    for family in families:
        if not isinstance(family, BlockFamily):
            kind = type(family).__name__
            raise UserError(f"families: a list of BlockFamily is needed; it holds a {kind}.")
        if fault := next(_faults(family), None):
            raise UserError(f"family {family.family!r}: {fault}.")
    return tuple(families)


def _faults(family: BlockFamily) -> Iterator[str]:
    branches = family.branches
    if not (isinstance(branches, (list, tuple)) and all(isinstance(b, Branch) for b in branches)):
        yield "branches has to be a list of branches, such as conv_bn('big')"
        return
    if not any(branch.steps for branch in branches):
        yield "no branch has any steps, so there is nothing to fuse"
    for branch in branches:
        if not _are_names(branch.steps):
            yield f"the steps of a branch have to be a list of names, not {branch.steps!r}"
    if not _are_names(family.tail):
        yield f"tail has to be a list of names, not {family.tail!r}"
    elif family.fused in family.tail or len(set(family.tail)) < len(family.tail):
        yield "every module after the sum needs a name of its own"
    if family.fused != "" and not _is_free(family.fused):
        yield f"fused={family.fused!r} cannot be the name of a child module"


def _are_names(names: object) -> bool:
    return isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)


def _is_free(name: object) -> bool:
    return isinstance(name, str) and "." not in name and not hasattr(FusedBlock(), name)
