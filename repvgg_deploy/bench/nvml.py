"""The GPU's clocks, power, temperature, throttle reasons and memory, through NVML.

NVML is the driver's library, ``pynvml`` its Python side (nvidia-ml-py). It numbers devices by their
place on the bus and knows no CUDA_VISIBLE_DEVICES, so the device is found by its PCI bus id. A
figure that a GPU or its driver does not tell is None. Has not run on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..engine.gpu import pci_bus_id
from ..optional import available

#: Clock event reasons that slow a GPU down. That it is idle, or that a user set its clocks, is not
#: among them. Meanings: NVML API reference, nvmlClocksEventReasons.
THROTTLING = {
    "nvmlClocksEventReasonSwPowerCap": "software power cap",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSyncBoost": "sync boost",
    "nvmlClocksEventReasonSwThermalSlowdown": "software thermal slowdown",
    "nvmlClocksEventReasonHwThermalSlowdown": "hardware thermal slowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "hardware power brake",
    "nvmlClocksEventReasonDisplayClockSetting": "display clock setting",
}


@dataclass(frozen=True)
class GpuSample:
    """Clocks in MHz, power in W, temperature in degrees Celsius; the reasons of throttling."""

    sm_clock: float | None
    memory_clock: float | None
    power: float | None
    temperature: float | None
    idle: bool | None
    throttled: list[str] | None


class NvmlGpu:
    """One device of an NVML that is initialised."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def sample(self) -> GpuSample:
        nvml = self._nvml
        power = self._ask(nvml.nvmlDeviceGetPowerUsage)
        bits = self._reasons()
        return GpuSample(
            sm_clock=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_clock=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            power=None if power is None else power / 1000,
            temperature=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            idle=None if bits is None else bool(bits & nvml.nvmlClocksEventReasonGpuIdle),
            throttled=None
            if bits is None
            else [text for name, text in THROTTLING.items() if bits & getattr(nvml, name)],
        )

    @property
    def name(self) -> str | None:
        name: str | None = self._ask(self._nvml.nvmlDeviceGetName)
        return name

    def driver(self) -> str | None:
        """The driver's version."""
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return None

    def used_memory(self) -> int | None:
        """Bytes in use on the whole device, by all processes."""
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        return None if memory is None else int(memory.used)

    def _reasons(self) -> int | None:
        """A driver older than R535 knows the same bits under their former name."""
        nvml = self._nvml
        bits: int | None = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:
            bits = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return bits

    def _ask(self, question: Callable[..., Any], *details: Any) -> Any:
        try:
            return question(self._handle, *details)
        except self._nvml.NVMLError:
            return None


@contextmanager
def nvml_gpu() -> Iterator[NvmlGpu | None]:
    """torch's and TensorRT's device 0; None without nvidia-ml-py, a driver or a device."""
    nvml, place = available("pynvml"), pci_bus_id()
    # Another package once had the name pynvml; what it lacks, nvidia-ml-py has since R535.
    if nvml is None or place is None or not hasattr(nvml, "nvmlClocksEventReasonGpuIdle"):
        yield None
        return
    gpu = None
    with suppress(nvml.NVMLError):
        nvml.nvmlInit()
        gpu = NvmlGpu(nvml, nvml.nvmlDeviceGetHandleByPciBusId(place))
    try:
        yield gpu
    finally:
        with suppress(nvml.NVMLError):  # also where nvmlInit failed
            nvml.nvmlShutdown()
