"""The first bytes of an engine, which say what made it without loading it.

TensorRT: "ftrt", format 0, and the version at bytes 24 to 27, as NVIDIA's trtexec reads them for
--getPlanVersionOnly (NVIDIA/TensorRT, samples/common/sampleEngines.cpp, printPlanVersion). Older
TensorRT: "ptrt", with no version that names a release (netron, source/tensorrt.js).

TensorRT-RTX: "vtrt" and otherwise the same; besides, the size of the whole file stands at byte 16,
and at byte 32 its targets, one bit each. NVIDIA documents neither: so it is in every one of 34
engines that releases 1.4.0.76, 1.6.1.120 and 1.7.1.116 built, of one target, of several and of none
named, of five precisions, and of one and two profiles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError
from .names import NAMES

MAGICS = (b"ftrt", b"vtrt", b"ptrt")

#: Magic, format, an unknown number, size, version, magic again, targets.
_HEADER = struct.Struct("<4sIQQ4s4sI")

#: TensorRT-RTX counts its own releases from 1; TensorRT with this header begins at 8.
_FIRST_TENSORRT = 8

#: Target of each bit, lowest first. Before 1.6 the last one meant something else, or nothing yet.
_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_TARGETS_FROM = (1, 6)


@dataclass(frozen=True)
class Plan:
    """``flavour`` is tensorrt or rtx; ``version`` is None where the header names no release.

    ``targets`` are the compute capabilities that a TensorRT-RTX engine was built for, None where
    the header does not tell; ``other_targets``: and for others, which this tool cannot name.
    """

    flavour: str
    version: str | None = None
    targets: list[str] | None = None
    other_targets: bool = False

    @property
    def maker(self) -> str:
        """``TensorRT-RTX 1.7.1.116``"""
        name = NAMES[self.flavour]
        return f"{name} {self.version}" if self.version else f"an older {name}"


def read_plan(path: Path, stream: BinaryIO, start: int) -> Plan:
    """Read the header of the plan that begins at byte ``start``; its body is not looked at.

    Raises:
        UserError: it is cut off, or of a format that this tool does not know.
    """
    stream.seek(start)
    header = stream.read(_HEADER.size)
    if header[:4] == b"ptrt":
        return Plan("tensorrt")
    if len(header) < _HEADER.size:
        raise UserError(f"{path}: is cut off within its header; copy or build it again.")
    magic, layout, _, size, numbers, _, bits = _HEADER.unpack(header)
    if layout != 0 or not numbers[0]:
        raise UserError(f"{path}: is a TensorRT engine of a format that this tool does not know.")
    version = ".".join(map(str, numbers))
    if numbers[0] >= _FIRST_TENSORRT:
        return Plan("tensorrt", version)
    if magic == b"vtrt":
        _check_size(path, stream, start, size)
    if magic != b"vtrt" or tuple(numbers[:2]) < _TARGETS_FROM:
        return Plan("rtx", version)
    named = [target for index, target in enumerate(_TARGETS) if bits >> index & 1]
    return Plan("rtx", version, named, other_targets=bool(bits >> len(_TARGETS)))


def _check_size(path: Path, stream: BinaryIO, start: int, size: int) -> None:
    there = stream.seek(0, 2) - start
    if there < size:
        raise UserError(
            f"{path}: is cut off: {there:,} of the engine's {size:,} bytes are there; copy or "
            "build it again."
        )
