"""Samples clocks, power, heat and other load while something is measured.

CPU figures are Linux's own accounts (cores.py), GPU figures NVML's (nvml.py).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from .conditions import Conditions, Sample, Totals, summarised
from .cores import ROOT, cpu_clock, cpu_time, quota_waits
from .nvml import NvmlGpu, nvml_gpu


class Sampler:
    """Samples in a background thread from ``with`` to its end; ``conditions`` are ready then."""

    conditions: Conditions

    def __init__(self, interval: float = 0.25, root: Path = ROOT) -> None:
        self._interval, self._root = interval, root
        self._samples: list[Sample] = []
        self._stop, self._stack = threading.Event(), ExitStack()

    def __enter__(self) -> Sampler:
        self._gpu = self._stack.enter_context(nvml_gpu())
        self._begin = _totals(self._root)
        self._thread = threading.Thread(target=self._run, name="conditions", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        end = _totals(self._root)
        self._samples = self._samples or [_sample(self._gpu, self._root)]  # a short span
        name = None if self._gpu is None else self._gpu.name
        self._stack.close()
        self.conditions = summarised(self._begin, end, self._samples, name)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._samples.append(_sample(self._gpu, self._root))


def _sample(gpu: NvmlGpu | None, root: Path) -> Sample:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Sample(cpu_clock(root), load, None if gpu is None else gpu.sample())


def _totals(root: Path) -> Totals:
    own = os.times()
    return Totals(time.perf_counter(), sum(own[:4]), cpu_time(root), quota_waits(root))
