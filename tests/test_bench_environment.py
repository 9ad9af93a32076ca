"""What a machine tells of its cores and memory, from files as Linux writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from repvgg_deploy.bench import memory
from repvgg_deploy.bench.cores import (
    CpuTime,
    affinity,
    cpu_clock,
    cpu_quota,
    cpu_time,
    quota_waits,
    ranges,
    thread_variables,
    usable_cores,
    virtual,
)
from repvgg_deploy.bench.environment import boost, doubts, environment, governor
from repvgg_deploy.bench.memory import PeakMemory

CPU = "sys/devices/system/cpu"


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores, of which the affinity mask holds 8."""
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def version_2(root: Path, **limits: str) -> Path:
    """Control groups of version 2; our group is /pod/work."""
    files = {f"sys/fs/cgroup/{path}cpu.max": limit for path, limit in limits.items()}
    return write(root, **{"proc/self/cgroup": "0::/pod/work", **files})


def test_the_quota_is_less_than_the_cores(tmp_path: Path) -> None:
    root = version_2(tmp_path, **{"pod/work/": "200000 100000"})
    assert cpu_quota(root) == 2.0
    assert usable_cores(root) == 2


def test_the_least_quota_of_all_levels_counts(tmp_path: Path) -> None:
    root = version_2(tmp_path, **{"pod/work/": "max 100000", "pod/": "350000 100000"})
    assert cpu_quota(root) == 3.5
    assert usable_cores(root) == 3


def test_a_container_s_group_is_the_top_of_its_mount(tmp_path: Path) -> None:
    """The path is the host's, and not there; below half a core there is still one to use."""
    root = version_2(tmp_path, **{"": "50000 100000"})
    assert cpu_quota(root) == 0.5
    assert usable_cores(root) == 1


def test_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/cpu,cpuacct/docker/1f"
    files = {
        "proc/self/cgroup": "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/x",
        f"{group}/cpu.cfs_quota_us": "400000",
        f"{group}/cpu.cfs_period_us": "100000",
        f"{group}/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    root = write(tmp_path, **files)
    assert cpu_quota(root) == 4.0
    assert usable_cores(root) == 4
    assert quota_waits(root) == 2.5


def test_threads_that_the_quota_stopped(tmp_path: Path) -> None:
    root = version_2(tmp_path, **{"pod/": "200000 100000"})
    assert quota_waits(root) is None
    write(root, **{"sys/fs/cgroup/pod/cpu.stat": "usage_usec 77\nthrottled_usec 1500000"})
    assert quota_waits(root) == 1.5


@pytest.mark.parametrize("limit", ["max 100000", "", "strange"])
def test_without_a_quota_the_affinity_mask_counts(tmp_path: Path, limit: str) -> None:
    root = version_2(tmp_path, **{"pod/work/": limit})
    assert cpu_quota(root) is None
    assert usable_cores(root) == 8


def test_a_quota_above_the_mask_changes_nothing(tmp_path: Path) -> None:
    assert usable_cores(version_2(tmp_path, **{"pod/": "1600000 100000"})) == 8


def test_another_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    assert affinity() is None
    assert usable_cores(tmp_path) == 64
    told = [cpu_quota, quota_waits, cpu_time, cpu_clock, virtual, governor, boost]
    assert [ask(tmp_path) for ask in told] == [None] * len(told)  # type: ignore[operator]


def test_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """user nice system idle iowait irq softirq steal guest guest_nice; guest is in user."""
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    write(tmp_path, **{"proc/stat": "cpu  1000 200 300 4000 500 10 20 60 900 0\ncpu0 1 1 1"})
    assert cpu_time(tmp_path) == CpuTime(busy=15.3, steal=0.6, total=60.9)
    write(tmp_path, **{"proc/stat": "cpu  1000 200"})
    assert cpu_time(tmp_path) is None


def test_the_clock_is_the_fastest_usable_core_s(tmp_path: Path) -> None:
    files = {f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": f"{1000 + i}000" for i in (0, 3, 7, 8)}
    assert cpu_clock(write(tmp_path, **files)) == 1007.0  # core 8 is not ours


def cpuinfo(flags: str) -> str:
    return "\n\n".join(
        f"processor\t: {i}\nflags\t\t: {flags}\ncpu MHz\t\t: {2000 + 100 * i}.5" for i in range(10)
    )


def test_the_clock_of_a_virtual_machine(tmp_path: Path) -> None:
    """What /proc/cpuinfo shows is measured only where there are the counters for it."""
    nominal = write(tmp_path, **{"proc/cpuinfo": cpuinfo("fpu hypervisor avx2")})
    assert cpu_clock(nominal) is None
    assert virtual(nominal) is True
    measured = write(tmp_path, **{"proc/cpuinfo": cpuinfo("fpu aperfmperf avx2")})
    assert cpu_clock(measured) == 2700.5
    assert virtual(measured) is False


def test_governors_and_boost(tmp_path: Path) -> None:
    path = f"{CPU}/cpu{{}}/cpufreq/scaling_governor"
    root = write(tmp_path, **{path.format(0): "performance", path.format(1): "performance"})
    assert governor(root) == "performance"
    assert doubts(8, root) == []
    write(root, **{path.format(2): "schedutil", path.format(8): "powersave"})
    assert governor(root) == "performance, schedutil"
    assert doubts(8, root) == [
        "the CPU's frequency governor is performance, schedutil, not performance"
    ]
    assert boost(write(root, **{f"{CPU}/cpufreq/boost": "0"})) is False
    assert boost(write(root, **{f"{CPU}/intel_pstate/no_turbo": "0"})) is True


def test_more_threads_than_usable_cores_are_a_doubt(tmp_path: Path) -> None:
    assert doubts(9, tmp_path) == [
        "9 threads on 8 usable cores (the affinity mask) stop one another"
    ]
    root = version_2(tmp_path, **{"pod/": "250000 100000"})
    assert doubts(3, root) == ["3 threads on 2 usable cores (a CPU quota of 2.5) stop one another"]
    assert doubts(2, root) == []


def test_ranges_of_cores() -> None:
    assert ranges([0, 1, 2, 3, 8, 10, 11]) == "0-3,8,10-11"
    assert ranges([]) == ""


def test_the_environment_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    monkeypatch.delenv("KMP_AFFINITY", raising=False)
    told = environment(2, version_2(tmp_path, **{"pod/": "200000 100000"}))
    assert (told["cores"], told["affinity"], told["cpu_quota"]) == (64, "0-7", 2.0)
    assert (told["usable_cores"], told["threads"]) == (2, 2)
    assert told["thread_variables"]["OMP_PROC_BIND"] == "close"
    assert "KMP_AFFINITY" not in thread_variables()
    assert told["governor"] is None
    assert told["packages"]["torch"] == torch.__version__
    assert json.loads(json.dumps(told, allow_nan=False)) == told


linux = pytest.mark.skipif(sys.platform != "linux", reason="the resident set's mark is Linux's")


@linux
def test_the_peak_is_seen_though_it_is_over_at_the_end() -> None:
    with PeakMemory() as peak:
        kept = np.ones(4_000_000)
        gone = np.ones(8_000_000)
        del gone
    assert peak.memory.host is not None
    assert 94e6 <= peak.memory.host <= 110e6  # the kernel counts in batches of pages
    assert peak.memory.device is None
    with PeakMemory() as again:
        kept += 1
    assert again.memory.host is not None
    assert again.memory.host < 8e6  # what was there before is not its own


def test_a_kernel_that_keeps_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    with PeakMemory() as peak:
        pass
    assert peak.memory.host is None


def test_the_device_s_peak_is_what_torch_s_allocator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for torch.cuda: 100 bytes before, 700 at most, 300 at the end."""
    reset: list[str] = []
    monkeypatch.setattr("torch.cuda.init", lambda: reset.append("init"))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: reset.append("reset"))
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 100)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 700)
    with PeakMemory("torch") as peak:
        assert reset == ["init", "reset"]
    assert peak.memory.device == 600


def test_other_runtimes_are_told_by_the_whole_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from repvgg_deploy.bench import nvml

    from .fake_pynvml import FakePynvml

    fake = FakePynvml(used=[4000, 9000])
    monkeypatch.setattr(nvml, "available", lambda module: fake)
    monkeypatch.setattr(nvml, "pci_bus_id", lambda: fake.place)
    with PeakMemory("whole") as peak:
        pass
    assert peak.memory.device == 5000
    monkeypatch.setattr(nvml, "available", lambda module: None)
    with PeakMemory("whole") as nothing:
        pass
    assert nothing.memory.device is None
