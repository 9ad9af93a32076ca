"""The share of the ceiling that a measured network reaches."""

from __future__ import annotations

from ...errors import UserError
from ..record import Contest, Roofline
from .ceilings import Ceilings
from .counts import Counts
from .layers import Layer


def roofline(contest: Contest, label: str, counts: Counts, ceilings: Ceilings) -> Roofline:
    """Of a subject that was measured in ``contest``, whose graph has ``counts`` at that batch.

    The ceiling is the time of all multiply-adds at the peak of their precision, or that of all
    bytes at the copy's rate, whichever is longer: two divisions that a reader can repeat, and the
    lower of the two bounds, so that no share looks better than it is. The tighter one, where each
    layer has its own longer time, is beside it: it holds where nothing stays in a cache from one
    layer to the next, and there a share of it says what still can be won.

    Raises:
        UserError: no ceiling was measured for a precision that it computes in.
        KeyError: it was not measured.
    """
    assert counts.batch == contest.batch
    measured = contest.of(label)
    if measured is None:
        raise KeyError(label)
    arithmetic = sum(_arithmetic_seconds(layer, ceilings, label) for layer in counts.layers)
    traffic = counts.bytes / ceilings.bytes
    layered = sum(
        max(_arithmetic_seconds(layer, ceilings, label), layer.bytes / ceilings.bytes)
        for layer in counts.layers
    )
    ceiling = max(arithmetic, traffic)
    return Roofline(
        runtime=contest.runtime,
        batch=contest.batch,
        label=label,
        macs=counts.macs,
        bytes=counts.bytes,
        ceiling_seconds=ceiling,
        share=ceiling / measured.summary.median,
        bound="arithmetic" if arithmetic >= traffic else "bytes",
        layered_seconds=layered,
        winograd=counts.winograd,
    )


def remark(line: Roofline) -> str | None:
    """What has to be said beside a share above 1; None beside another."""
    if line.share <= 1:
        return None
    if line.bound == "bytes":
        return "beyond the ceiling of memory: a part of what was counted stayed in caches"
    return (
        "beyond the ceiling of direct arithmetic: fewer multiplications than counted (Winograd), "
        "or a narrower type inside (TF32)"
    )


def _arithmetic_seconds(layer: Layer, ceilings: Ceilings, label: str) -> float:
    """Where a device only emulates fp16 or bf16, runtimes compute it in fp32."""
    if not layer.macs:
        return 0.0
    emulated = layer.precision in ("fp16", "bf16") and layer.precision not in ceilings.macs
    precision = "fp32" if emulated else layer.precision
    if precision not in ceilings.macs:
        raise UserError(
            f"{label}: torch has no fast {precision} product on {ceilings.name} to measure a "
            "ceiling by."
        )
    return layer.macs / ceilings.macs[precision]
