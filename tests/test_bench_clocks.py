"""Clocks, throttling and load of a span, from scripted samples and counters.

No GPU here: a stand-in for NVML, whose names are held against the real module below.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repvgg_deploy.bench import nvml as nvml_module
from repvgg_deploy.bench.clocks import Sampler
from repvgg_deploy.bench.conditions import Conditions, Sample, Totals, summarised
from repvgg_deploy.bench.cores import CpuTime
from repvgg_deploy.bench.environment import environment
from repvgg_deploy.bench.nvml import GpuSample, nvml_gpu
from repvgg_deploy.optional import available

from .at_work import PATIENCE
from .fake_pynvml import FakePynvml

BUSY = {"name": "NVIDIA L4", "driver": "580.65.06", "sm_clock": 2040, "memory_clock": 6251,
        "milliwatts": 71500, "temperature": 62, "used": 512, "reasons": 0}  # fmt: skip

#: (the stand-in or what is there instead, where CUDA's device sits) -> the stand-in
Install = Callable[..., Any]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a FakePynvml, and the GPU that CUDA sees, in place."""

    def put(fake: Any, place: str | None = "0000:65:00.0") -> Any:
        monkeypatch.setattr(nvml_module, "available", lambda module: fake)
        monkeypatch.setattr(nvml_module, "pci_bus_id", lambda: place)
        return fake

    return put


def gpu_sample(clock: float = 2000.0, idle: bool = False, *throttled: str) -> GpuSample:
    return GpuSample(clock, 6251.0, 70.0, 60.0, idle, list(throttled))


def totals(wall: float, own: float = 0.0, busy: float = 0.0, steal: float = 0.0) -> Totals:
    """Of a machine of 4 cores that started at 0."""
    return Totals(wall, own, CpuTime(busy, steal, 4 * wall), 0.0)


def of(samples: list[Sample], end: Totals | None = None) -> Conditions:
    return summarised(totals(0.0), end or totals(10.0), samples, "NVIDIA L4")


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)


def test_the_spread_of_the_samples() -> None:
    conditions = of([Sample(clock, 0.5, None) for clock in (3000.0, 3010.0, 3100.0)])
    assert conditions.cpu_clock is not None
    assert dataclasses.astuple(conditions.cpu_clock) == (3000.0, 3010.0, 3100.0)
    assert conditions.samples == 3
    assert conditions.seconds == 10.0
    assert conditions.gpu is None
    assert conditions.doubts == []


def test_what_is_not_told_is_none() -> None:
    conditions = summarised(
        Totals(0.0, 0.0, None, None),
        Totals(10.0, 9.0, None, None),
        [Sample(None, None, None)],
        None,
    )
    told = {k: v for k, v in dataclasses.asdict(conditions).items() if v is not None}
    assert told == {"seconds": 10.0, "samples": 1, "doubts": []}


def test_load_of_others_is_the_machine_s_less_our_own() -> None:
    """25 of 40 CPU seconds busy, 20 of them ours: others kept half a core busy."""
    conditions = of([], totals(10.0, own=20.0, busy=25.0))
    assert conditions.foreign_load == 0.5
    assert conditions.doubts == ["other processes kept 0.50 of 4 cores busy"]
    quiet = of([], totals(10.0, own=20.0, busy=21.0))
    assert quiet.foreign_load == pytest.approx(0.1)
    assert quiet.doubts == []


def test_our_own_ticks_never_make_a_negative_load() -> None:
    assert of([], totals(10.0, own=20.1, busy=20.0)).foreign_load == 0.0


def test_time_that_the_hypervisor_took() -> None:
    conditions = of([], totals(10.0, steal=1.0))
    assert conditions.steal == 0.025
    assert conditions.doubts == ["the hypervisor took 2.5% of the CPU time (steal)"]


def test_a_span_of_a_few_ticks_is_not_judged_by_them() -> None:
    conditions = of([], totals(0.2, own=0.1, busy=0.3))
    assert conditions.foreign_load == pytest.approx(1.0)
    assert conditions.doubts == []


def test_a_quota_that_stopped_threads() -> None:
    end = Totals(10.0, 0.0, None, 1.5)
    conditions = summarised(Totals(0.0, 0.0, None, 0.25), end, [], None)
    assert conditions.quota_waits == 1.25
    (doubt,) = conditions.doubts
    assert "CPU quota stopped threads for 1.25 s" in doubt


def test_a_clock_that_moved() -> None:
    steady = of([Sample(3000.0 + i, None, gpu_sample(2000.0 - i)) for i in range(50)])
    assert steady.doubts == []
    moved = of([Sample(3000.0 - 20 * i, None, gpu_sample(2000.0 - 10 * i)) for i in range(21)])
    assert moved.doubts == [
        "the GPU's clock was not steady: 1820 to 1980 MHz",
        "the CPU's clock was not steady: 2640 to 2960 MHz",
    ]


def test_the_clock_of_an_idle_gpu_does_not_count() -> None:
    idle = [Sample(None, None, gpu_sample(210.0, True)) for _ in range(5)]
    conditions = of(idle + [Sample(None, None, gpu_sample()) for _ in range(5)])
    assert conditions.doubts == []
    assert conditions.gpu is not None
    assert conditions.gpu.sm_clock is not None
    assert conditions.gpu.sm_clock.minimum == 210.0  # but it is told


def test_throttling_is_named_with_every_reason_seen() -> None:
    samples = [gpu_sample(), gpu_sample(2000.0, False, "software power cap"), gpu_sample(),
               gpu_sample(2000.0, False, "hardware thermal slowdown")]  # fmt: skip
    conditions = of([Sample(None, None, sample) for sample in samples])
    assert conditions.gpu is not None
    assert conditions.gpu.throttled == ["hardware thermal slowdown", "software power cap"]
    assert conditions.doubts == [
        "the GPU was throttled: hardware thermal slowdown, software power cap"
    ]


def test_the_gpu_s_figures(install: Install) -> None:
    fake = install(FakePynvml(**BUSY))
    with nvml_gpu() as gpu:
        assert gpu is not None
        assert gpu.sample() == GpuSample(2040, 6251, 71.5, 62, False, [])
        assert (gpu.name, gpu.driver(), gpu.used_memory()) == ("NVIDIA L4", "580.65.06", 512)
    assert fake.open == 0


@pytest.mark.parametrize("name", ["reasons", "old_reasons"])
def test_reasons_of_new_and_old_drivers(install: Install, name: str) -> None:
    install(FakePynvml(**{name: 0x1 | 0x2 | 0x4 | 0x40}))
    with nvml_gpu() as gpu:
        sample = gpu.sample()
    assert sample.idle
    assert sample.throttled == ["software power cap", "hardware thermal slowdown"]


def test_figures_that_a_gpu_does_not_tell(install: Install) -> None:
    install(FakePynvml())
    with nvml_gpu() as gpu:
        assert gpu.sample() == GpuSample(None, None, None, None, None, None)
        assert (gpu.name, gpu.driver(), gpu.used_memory()) == (None, None, None)


def test_no_gpu_where_anything_is_missing(install: Install) -> None:
    """No nvidia-ml-py, no CUDA device, no driver for NVML, another device than CUDA's, another
    package of that name."""
    broken, elsewhere = FakePynvml(**BUSY), FakePynvml(**BUSY)
    broken.works, elsewhere.place = False, "0000:17:00.0"
    for fake, place in [
        (None, "0000:65:00.0"), (FakePynvml(**BUSY), None), (broken, "0000:65:00.0"),
        (elsewhere, "0000:65:00.0"), (object(), "0000:65:00.0"),
    ]:  # fmt: skip
        install(fake, place)
        with nvml_gpu() as gpu:
            assert gpu is None
    assert elsewhere.open == 0


def test_the_driver_s_version_stands_in_the_environment(install: Install) -> None:
    install(FakePynvml(**BUSY))
    assert environment(1)["driver"] == "580.65.06"


def machine(root: Path, busy: int) -> None:
    """/proc/stat of a machine, in ticks."""
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  {busy} 0 0 1000 0 0 0 0 0 0\ncpu0 1 2 3\n")


def test_sampling_while_something_runs(install: Install, tmp_path: Path) -> None:
    machine(tmp_path, 500)
    seen = threading.Event()

    class Watched(FakePynvml):
        def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> object:
            clock = super().nvmlDeviceGetClockInfo(handle, type)
            if clock == 1000:
                seen.set()
            return clock

    fake = install(Watched(**{**BUSY, "sm_clock": [2000, 1500, 1000]}))
    with Sampler(interval=0.001, root=tmp_path) as sampler:
        assert seen.wait(PATIENCE)
        machine(tmp_path, 900)
    conditions = sampler.conditions
    assert conditions.samples >= 3
    assert conditions.gpu is not None
    assert conditions.gpu.name == "NVIDIA L4"
    assert conditions.gpu.sm_clock is not None
    assert (conditions.gpu.sm_clock.minimum, conditions.gpu.sm_clock.maximum) == (1000, 2000)
    assert conditions.foreign_load is not None
    assert conditions.foreign_load > 0
    assert any("the GPU's clock was not steady" in doubt for doubt in conditions.doubts)
    json.dumps(dataclasses.asdict(conditions), allow_nan=False)
    assert fake.open == 0
    assert "conditions" not in {thread.name for thread in threading.enumerate()}


def test_a_span_shorter_than_the_interval_has_one_sample(install: Install, tmp_path: Path) -> None:
    install(FakePynvml(**BUSY))
    with Sampler(interval=60.0, root=tmp_path) as sampler:
        pass
    assert sampler.conditions.samples == 1
    assert sampler.conditions.gpu is not None
    assert sampler.conditions.steal is None  # that root has no /proc/stat


def test_the_sampler_ends_with_what_it_watches(install: Install, tmp_path: Path) -> None:
    fake = install(FakePynvml(**BUSY))
    with pytest.raises(KeyboardInterrupt), Sampler(root=tmp_path) as sampler:
        raise KeyboardInterrupt
    assert sampler.conditions.samples == 1
    assert fake.open == 0
    assert "conditions" not in {thread.name for thread in threading.enumerate()}


def used_names() -> set[str]:
    """What nvml.py takes from pynvml, and the reasons it names in strings."""
    tree = ast.parse(Path(nvml_module.__file__).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in names | set(nvml_module.THROTTLING) if name[:4].lower() == "nvml"}


def test_the_stand_in_has_all_that_we_use() -> None:
    assert len(used_names()) >= 20
    assert used_names() <= set(dir(FakePynvml()))


@pytest.mark.skipif(available("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_the_stand_in_is_like_the_real_module() -> None:
    """Names, constants and parameters; and without a driver the real one gives no GPU."""
    real, fake = available("pynvml"), FakePynvml()
    for name in (name for name in dir(fake) if name[:4].lower() == "nvml"):
        ours, theirs = getattr(fake, name), getattr(real, name)
        if isinstance(ours, int):
            assert ours == theirs, name
        elif not isinstance(ours, type):
            assert list(inspect.signature(ours).parameters) == list(
                inspect.signature(theirs).parameters
            ), name
    assert issubclass(real.NVMLError, Exception)


@pytest.mark.skipif(available("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_the_real_module_without_such_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_module, "pci_bus_id", lambda: "ffff:ff:00.0")
    with nvml_gpu() as gpu:
        assert gpu is None
