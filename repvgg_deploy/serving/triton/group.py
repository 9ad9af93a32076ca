"""Which artifacts become one Triton model, and what it is called."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import UserError
from .model import Scheduling, TritonModel
from .servable import Servable

#: Where engines have to be alike to stand behind one configuration.
_ALIKE = ("inputs", "outputs", "profiles", "version", "platform")


def check_name(base: str) -> None:
    """Names are folders to Triton and parts of its URLs, so they are kept to what both take.

    Raises:
        UserError: another character.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", base):
        raise UserError(
            f"{base!r}: Triton has model names in its URLs; give one of letters, digits, '.', '_' "
            "and '-' with --name."
        )


def group(servables: Sequence[Servable], base: str, scheduling: Scheduling) -> list[TritonModel]:
    """One model for each precision and backend, ``<base>_<precision>_<backend>``.

    Engines of one precision become one model, which takes the file for the GPU it runs on.

    Raises:
        UserError: artifacts that would have one name and are not engines of one network for
            several GPUs.
    """
    members: dict[str, list[Servable]] = {}
    for servable in servables:
        name = f"{base}_{servable.precision}_{servable.backend}"
        members.setdefault(name, []).append(servable)
    for name, several in members.items():
        for other in several[1:]:
            _check_pair(name, several[0], other)
        _check_targets(name, several)
    return [TritonModel(name, tuple(several), scheduling) for name, several in members.items()]


def _check_pair(name: str, first: Servable, other: Servable) -> None:
    if first.backend == "onnx":
        differ = "are both ONNX"
    elif unlike := [field for field in _ALIKE if getattr(first, field) != getattr(other, field)]:
        differ = f"differ in {' and '.join(unlike)}"
    else:
        return
    raise UserError(
        f"{first.path.name} and {other.path.name} would both be {name} and {differ}; "
        "choose with --artifact."
    )


def _check_targets(name: str, members: Sequence[Servable]) -> None:
    taken: dict[str, str] = {}
    for member in members:
        for target in member.targets or ("any GPU",):
            if other := taken.get(target):
                where = target if target == "any GPU" else f"compute capability {target}"
                raise UserError(
                    f"{other} and {member.path.name} would both be {name} for {where}; choose "
                    "with --artifact."
                )
            taken[target] = member.path.name
