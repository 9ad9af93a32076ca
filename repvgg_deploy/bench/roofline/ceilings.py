"""What this device does at best, measured once and kept.

There is one small JSON file for each device, number of threads and version of torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError
from ...records import check
from ...sidecar import write_json
from ..environment import cpu_name
from .peaks import measure_peaks

#: Threads that ran for less than this share of the time had to share the CPU with other work.
UNDISTURBED = 0.9
#: In bytes; ours take a few hundred.
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Ceilings:
    """``macs`` are multiply-adds a second by precision (fp32, fp16, bf16, int8), of those that
    torch has products of here; ``bytes`` are a second's of a copy, those read and those written
    together. ``device`` is cpu or cuda, ``name`` the processor's or the GPU's.

    ``granted`` is the least share of the time that the threads ran for in any of the fastest runs:
    below 0.9 other work had the CPU as well, and the ceilings are too low. None on a GPU.
    """

    device: str
    name: str
    threads: int
    torch: str
    date: str
    macs: dict[str, float]
    bytes: float
    granted: float | None

    @property
    def disturbed(self) -> bool:
        return self.granted is not None and self.granted < UNDISTURBED


def device_name(device: str) -> str:
    """``device`` is cpu or cuda."""
    return cpu_name() if device == "cpu" else torch.cuda.get_device_name()


def find_ceilings(device: str, threads: int, folder: Path) -> tuple[Ceilings, str | None]:
    """The ceilings of ``cpu`` or ``cuda``: from the cache in ``folder``, or measured and put there.

    The second is a note where the cache was damaged or cannot be written, or where the CPU had
    other work: what was measured then is not kept. Else it is None.

    Raises:
        RuntimeError, MemoryError: torch cannot measure them, for lack of memory for one.
    """
    name = device_name(device)
    path = folder / cache_name(device, name, threads)
    notes = []
    try:
        return _read(path, device, name, threads), None
    except FileNotFoundError:
        pass
    except OSError as error:
        notes.append(f"{path} cannot be read ({error.strerror})")
    except (ValueError, TypeError, RecursionError) as error:
        notes.append(f"{path} was damaged ({str(error)[:200]}): measured again")
    measured = _measure(device, threads)
    if measured.disturbed:
        notes.append(
            f"the threads ran for {measured.granted:.0%} of the time, since the CPU had other "
            "work, so they are too low: no share of them is given, and they are not kept"
        )
    else:
        try:
            write_json(path, measured)
        except UserError as error:
            notes.append(f"they are measured anew each time: {error}")
    return measured, f"ceilings: {'; '.join(notes)}" if notes else None


def cache_name(device: str, name: str, threads: int) -> str:
    """``ceilings-cpu-amd-epyc-avx512-2-threads-torch-2.13.0-cpu.json``"""
    key = f"{device} {name} {threads} threads torch {torch.__version__}"
    return f"ceilings-{re.sub(r'[^a-z0-9.]+', '-', key.lower())[:200]}.json"


def _measure(device: str, threads: int) -> Ceilings:
    peaks = measure_peaks(device, threads)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Ceilings(
        device, device_name(device), threads, torch.__version__, date, **dataclasses.asdict(peaks)
    )


def _read(path: Path, device: str, name: str, threads: int) -> Ceilings:
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        text = stream.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError("it is too large")
    data: Any = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("it is no JSON object")
    found = Ceilings(**data)
    check(found, Ceilings)
    rates = [*found.macs.values(), found.bytes]
    if "fp32" not in found.macs or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError("its rates are no positive numbers")
    if (found.device, found.name, found.threads, found.torch) != (
        device, name, threads, torch.__version__,
    ):  # fmt: skip
        raise ValueError("it is of another device, thread count or torch")
    return found
