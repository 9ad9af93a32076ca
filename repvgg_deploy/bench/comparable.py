"""Which benchmarks can be compared at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .record import BenchRecord, Contest, on_gpu

#: What makes two runs incomparable as a whole, by its key in the environment.
_MACHINE = {
    "cpu": "CPU",
    "cores": "number of cores",
    "usable_cores": "number of usable cores",
    "affinity": "cores that it may use",
    "cpu_quota": "CPU quota",
    "threads": "number of threads",
    "governor": "governor",
    "boost": "boost of clocks",
}
#: The same for a contest on a GPU.
_GPU = {"gpu": "GPU", "driver": "driver", "driver_cuda": "CUDA version of the driver"}
#: GPU clocks that are further apart than this share are two settings, or one was throttled.
_CLOCKS_ALIKE = 0.03
#: Packages by the beginning of a runtime's name.
_PACKAGES = {
    "torch": ("torch",),
    "cuda-graphs": ("torch",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt-rtx-cu13",),
}


def check_machine(old: BenchRecord, new: BenchRecord) -> None:
    """Raises UserError: the runs are of two scenarios or of server's, or machines differ."""
    if old.scenario != new.scenario:
        raise UserError(
            f"--compare: the old run is of {old.scenario} and the new one of {new.scenario}; "
            "compare runs of one scenario."
        )
    if old.scenario == "server":
        raise UserError(
            "--compare: runs of the server scenario hold rates, and no times of a step; compare "
            "runs of latency or throughput."
        )
    if reason := _differing(_MACHINE, old.environment, new.environment):
        raise UserError(f"--compare: {reason}; run both on one machine, set up alike.")


def _differing(names: dict[str, str], old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first that both know and that differs, as a phrase."""
    for key, name in names.items():
        before, after = old.get(key), new.get(key)
        if before is not None and after is not None and before != after:
            return f"the {name} was {str(before)[:80]} and is {str(after)[:80]}"
    return None


def why_not(
    contest: Contest, other: Contest | None, old: BenchRecord, new: BenchRecord
) -> str | None:
    """Why no subject of a contest can be compared; None: they can."""
    if other is None:
        return "only the old run has it"
    if on_gpu(contest.runtime):
        reason = _differing(_GPU, old.environment, new.environment)
        if reason := reason or _other_clock(contest, other):
            return reason
    packages = (run.environment.get("packages") for run in (old, new))
    before, after = (held if isinstance(held, dict) else {} for held in packages)
    names = {name: name for name in _packages_of(contest.runtime)}
    if reason := _differing(names, before, after):
        return reason
    for which, one in (("old", contest), ("new", other)):
        if one.doubts:
            return f"the {which} run is unreliable: {'; '.join(one.doubts)}"
    return None


def _other_clock(contest: Contest, other: Contest) -> str | None:
    """Where both runs know the GPU's clock meanwhile (bench/conditions.py)."""
    before, after = _sm_clock(contest), _sm_clock(other)
    if before is None or after is None or abs(after / before - 1) <= _CLOCKS_ALIKE:
        return None
    return f"the GPU's SM clock was {before:.0f} MHz and is {after:.0f} MHz (medians)"


def _sm_clock(contest: Contest) -> float | None:
    """In MHz; files hold conditions as they like."""
    found: Any = contest.conditions
    for key in ("gpu", "sm_clock", "median"):
        found = found.get(key) if isinstance(found, dict) else None
    told = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if told and 0 < found < 1e6 else None


def _packages_of(runtime: str) -> tuple[str, ...]:
    found = (names for start, names in _PACKAGES.items() if runtime.startswith(start))
    return next(found, ())


def why_not_subject(label: str, old: BenchRecord, new: BenchRecord) -> str | None:
    """Why the subject of that label in one run is not that of the other; None: it is."""
    before, after = (next(one for one in run.subjects if one.label == label) for run in (old, new))
    if before.image_size != after.image_size:
        sizes = ("x".join(map(str, one.image_size)) for one in (before, after))
        return "the image size was {} and is {}".format(*sizes)
    if before.precision != after.precision:
        return f"the precision was {before.precision} and is {after.precision}"
    return None


def other_files(old: BenchRecord, new: BenchRecord) -> Iterator[str]:
    """Sentences on what was measured; networks may well differ in what they have learnt."""
    if None not in (old.architecture, new.architecture) and old.architecture != new.architecture:
        yield f"the network was {old.architecture} and is {new.architecture}"
    hashes = {one.label: one.sha256 for one in old.subjects}
    for one in new.subjects:
        if None not in (one.sha256, hashes.get(one.label)) and one.sha256 != hashes[one.label]:
            yield f"{one.label}: is not the same file in both runs"
