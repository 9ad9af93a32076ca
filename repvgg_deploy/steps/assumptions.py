"""What a checkpoint does not say about its network, and what was taken for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..artifacts import FusedArtifact
from ..errors import UserError
from ..models.spec import Strides, strides_text
from ..rebuild import rebuild
from ..sidecar import sidecar_path
from .inventory import training_only
from .weights import WeightsFile

#: ``recorded``: by an earlier step of this tool. ``given``: by the user.
Origin = Literal["assumed", "given", "recorded"]


@dataclass(frozen=True)
class Assumptions:
    """``eps`` of the batch norms that are folded, each value once; empty where there are none.

    ``strides`` are the first block's in stages 0 to 4 and ``activation`` follows every block; None
    where the network around the blocks is not known. ``padding`` are those of the fused
    convolutions (half a kernel, rounded down), each once; empty where nothing is known of them.
    ``dropped`` names auxiliary heads that are left out.
    """

    eps: tuple[float, ...]
    eps_origin: Origin
    strides: Strides | None
    strides_origin: Origin
    padding: tuple[int, ...]
    activation: str | None
    dropped: tuple[str, ...]

    @property
    def assumed_strides(self) -> str:
        """The strides that neither the user nor an earlier step gave; empty where one did."""
        if self.strides is None or self.strides_origin != "assumed":
            return ""
        return strides_text(self.strides)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Assumptions:
        """What ``to_dict`` gave, or the JSON of it.

        Raises:
            TypeError, ValueError: says what is wrong with it.
        """
        return rebuild(cls, data)


def find_assumptions(weights: WeightsFile) -> Assumptions:
    """Of a checkpoint, as it was read."""
    reading, whole = weights.reading, weights.whole
    known = weights.recorded is not None and weights.recorded.spec is not None
    strides_origin: Origin = "given" if reading.strides else "recorded" if known else "assumed"
    kernels = {side for block in weights.blocks for side in block.kernel_size}
    if whole is not None:
        kernels = {3}
    return Assumptions(
        eps=tuple(sorted({block.eps(reading.eps) for block in weights.blocks})),
        eps_origin="given" if reading.eps is not None else "recorded" if known else "assumed",
        strides=None if whole is None else whole.spec.strides,
        strides_origin=strides_origin,
        padding=tuple(sorted({side // 2 for side in kernels})),
        activation=None if whole is None else "ReLU",
        dropped=_heads(weights),
    )


def recorded_assumptions(fused: FusedArtifact, weights: WeightsFile) -> Assumptions:
    """Those that fuse recorded of the checkpoint; else what the fused ``weights`` leave open.

    Raises:
        UserError: the sidecar is damaged.
    """
    if fused.assumptions is None:
        return find_assumptions(weights)
    try:
        return Assumptions.from_dict(fused.assumptions)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{sidecar_path(weights.path)}: is damaged (its assumptions: {error}); fuse it again."
        ) from error


def _heads(weights: WeightsFile) -> tuple[str, ...]:
    """Paths of the auxiliary heads, without their tensors' own names."""
    patterns = {b.family.training_only for b in weights.blocks if b.family.training_only}
    found = (re.search(pattern, key) for key in training_only(weights) for pattern in patterns)
    return tuple(dict.fromkeys(m.string[: m.end()].rstrip(".") for m in found if m))
