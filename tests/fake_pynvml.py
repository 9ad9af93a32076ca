"""A stand-in for nvidia-ml-py's ``pynvml``: one GPU whose figures a test sets.

Written after NVML's documentation; test_bench_clocks.py holds its names, constants and parameters
against the real module where that is installed.
"""

from __future__ import annotations

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class FakePynvml:
    """``figures`` by the name of the function (with the clock's type); a missing one is an error.

    ``open`` counts nvmlInit against nvmlShutdown. The device sits at ``place``.
    """

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksEventReasonGpuIdle = 0x1
    nvmlClocksEventReasonApplicationsClocksSetting = 0x2
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksEventReasonHwSlowdown = 0x8
    nvmlClocksEventReasonSyncBoost = 0x10
    nvmlClocksEventReasonSwThermalSlowdown = 0x20
    nvmlClocksEventReasonHwThermalSlowdown = 0x40
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80
    nvmlClocksEventReasonDisplayClockSetting = 0x100

    def __init__(self, **figures: object) -> None:
        self.figures, self.open, self.place, self.works = figures, 0, "0000:65:00.0", True

    def nvmlInit(self) -> None:
        if not self.works:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        if not self.open:
            raise NVMLError("Uninitialized")
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> str:
        if pciBusId != self.place:
            raise NVMLError("Not Found")
        return "handle"

    def nvmlSystemGetDriverVersion(self) -> object:
        return self._figure("driver")

    def nvmlDeviceGetName(self, handle: str) -> object:
        return self._figure("name", handle)

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> object:
        return self._figure({1: "sm_clock", 2: "memory_clock"}[type], handle)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> object:
        return self._figure("milliwatts", handle)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> object:
        return self._figure("temperature", handle)

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: object = None) -> object:
        return SimpleNamespace(used=self._figure("used", handle))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> object:
        return self._figure("reasons", handle)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> object:
        return self._figure("old_reasons", handle)

    def _figure(self, name: str, handle: str = "handle") -> object:
        """A list gives one figure after the other, the last for ever."""
        if not self.open or handle != "handle":
            raise NVMLError("Uninitialized")
        if name not in self.figures:
            raise NVMLError("Not Supported")
        figure = self.figures[name]
        if isinstance(figure, list):
            return figure.pop(0) if len(figure) > 1 else figure[0]
        return figure
