"""Losses of steps, left on the device until they are looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from .processes import Processes
from .run_folder import StepLine


class Losses:
    """Since the last look. To look waits for the device, and for the other processes."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._pending: list[tuple[int, int, float, Tensor]] = []

    def add(self, step: int, epoch: int, lr: float, loss: Tensor) -> None:
        """Step and epoch count from 1; ``loss`` is the mean over this process's part."""
        self._pending.append((step, epoch, lr, loss))

    @property
    def pending(self) -> bool:
        """Whether any is left to look at."""
        return bool(self._pending)

    def look(self, stop: bool) -> tuple[list[StepLine], bool]:
        """Means over all processes, and whether any wants to ``stop``.

        A loss that is not finite is the last that is given.
        """
        flag = torch.tensor(float(stop), device=self._processes.device)
        values = torch.stack([*(loss.float() for *_, loss in self._pending), flag])
        *losses, wanted = self._processes.total(values).tolist()
        lines = []
        for (step, epoch, lr, _), loss in zip(self._pending, losses, strict=True):
            lines.append(StepLine(step, epoch, lr, loss / self._processes.world))
            if not lines[-1].finite:
                break
        self._pending = []
        return lines, wanted > 0
