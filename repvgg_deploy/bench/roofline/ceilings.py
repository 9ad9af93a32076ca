"""What this device does at best: a large matrix product and a large copy, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ceilings:
    """``macs`` are multiply-adds a second by precision (fp32, fp16, bf16, int8), of those that
    torch can multiply here; ``bytes`` a second, read and written together, of a copy."""

    device: str
    name: str
    threads: int
    torch: str
    date: str
    macs: dict[str, float]
    bytes: float


def find_ceilings(device: str, threads: int, folder: Path) -> tuple[Ceilings, str | None]:
    """The ceilings of ``cpu`` or ``cuda``: from the cache in ``folder``, or measured and put there.

    The second is a note where the cache was damaged, else None.
    """
    raise NotImplementedError
