"""Which cores this process may use, and how busy they are: Linux's own accounts.

``root`` is where /proc and /sys are. What is not told there, or on another system, is None.
Formats: proc(5), cgroups(7), and the kernel's cgroup-v2 and cpufreq guides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
#: The variables that OpenMP, MKL, OpenBLAS and CUDA take their threads and devices from.
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "OMP_DYNAMIC",
    "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_HW_SUBSET", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING",
)  # fmt: skip


def read(path: Path) -> str | None:
    """A file's text, None where there is none or it may not be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process can keep busy: its affinity mask, or the container's quota if less.

    ``os.cpu_count()`` is the machine's: that many threads on a smaller quota stop one another.
    """
    allowed = affinity()
    cores = (os.cpu_count() or 1) if allowed is None else len(allowed)
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def affinity() -> list[int] | None:
    """The cores of the affinity mask, in order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control groups allow; the least of all levels."""
    quotas = []
    for folder in _cpu_groups(root):
        words = (read(folder / "cpu.max") or "").split()  # version 2: "200000 100000"
        words = words or [read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdigit() for word in words):  # else "max", -1: no limit
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def quota_waits(root: Path = ROOT) -> float | None:
    """Seconds for which the quota has stopped threads of our control groups so far."""
    waits = []
    for folder in _cpu_groups(root):
        words = (read(folder / "cpu.stat") or "").split()
        counts = dict(zip(words[::2], words[1::2], strict=False))
        if "throttled_usec" in counts:
            waits.append(int(counts["throttled_usec"]) / 1e6)
        elif "throttled_time" in counts:  # version 1
            waits.append(int(counts["throttled_time"]) / 1e9)
    return max(waits, default=None)


def _cpu_groups(root: Path) -> Iterator[Path]:
    """Folders of our control group with the cpu controller, and of all above it.

    In a container /proc/self/cgroup may name a path of the host, which is not there; the mount's
    top, which is, is then our group.
    """
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):
            yield mount / part


@dataclass(frozen=True)
class CpuTime:
    """Seconds since boot, of all cores together: at work, taken by the hypervisor, in all."""

    busy: float
    steal: float
    total: float


def cpu_time(root: Path = ROOT) -> CpuTime | None:
    """The machine's, not only the container's."""
    fields = (read(root / "proc/stat") or "").partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    # Guest time, the last two, stands in user and nice already.
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[1:9])
    busy = user + nice + system + irq + softirq
    ticks = os.sysconf("SC_CLK_TCK")
    return CpuTime(busy / ticks, steal / ticks, (busy + idle + iowait + steal) / ticks)


def cpu_clock(root: Path = ROOT) -> float | None:
    """MHz of the fastest core of the affinity mask.

    None where nobody measures it: a virtual machine without the aperfmperf counters shows the
    nominal clock in /proc/cpuinfo, at all times.
    """
    cores = affinity() or []
    folder = root / "sys/devices/system/cpu"
    kilohertz = [read(folder / f"cpu{core}/cpufreq/scaling_cur_freq") for core in cores]
    if told := [int(text) / 1000 for text in kilohertz if text and text.isdigit()]:
        return max(told)
    lines = (read(root / "proc/cpuinfo") or "").splitlines()
    if "aperfmperf" not in _flags(lines):
        return None
    megahertz = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return max((megahertz[core] for core in cores if core < len(megahertz)), default=None)


def virtual(root: Path = ROOT) -> bool | None:
    """Whether a hypervisor runs below; None on a processor that has no such flag (not x86)."""
    flags = _flags((read(root / "proc/cpuinfo") or "").splitlines())
    return "hypervisor" in flags if flags else None


def _flags(cpuinfo: list[str]) -> list[str]:
    first = next((line for line in cpuinfo if line.startswith("flags")), "")
    return first.partition(":")[2].split()


def ranges(cores: list[int]) -> str:
    """``0-3,8`` for 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def thread_variables() -> dict[str, str]:
    """Those of VARIABLES that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
