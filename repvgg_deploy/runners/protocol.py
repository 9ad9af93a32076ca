"""What every runtime looks like to the proof and to the benchmark."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Array = NDArray[Any]


class Runner(Protocol):
    """A network on a runtime. ``load`` places the input; ``step`` runs it and waits for the end."""

    #: e.g. ``onnxruntime (cpu)``
    runtime: str

    def load(self, batch: Array) -> None:
        """Place a batch, [N, C, H, W], where the runtime wants it."""

    def step(self) -> float | None:
        """One inference of the loaded batch, complete when this returns.

        Returns its seconds where the runtime knows better than the caller's clock (a GPU's own
        clock; several batches in flight), else None.
        """

    def output(self) -> Array:
        """Logits of the last step, [N, classes], float64."""


@runtime_checkable
class Transferring(Protocol):
    """A runner on a device of its own memory, whose steps hold no copies."""

    def transfer(self) -> float:
        """Seconds of copying the loaded batch to the device and the last result back."""


@runtime_checkable
class Compiling(Protocol):
    """A runner that compiles when a batch is loaded, in ``compile_seconds``."""

    compile_seconds: float


def run(runner: Runner, samples: Array, batch: int | None = None) -> NDArray[np.float64]:
    """Samples through a runner, ``batch`` at a time: [N, C, H, W] -> [N, classes] in float64.

    ``batch`` None runs all at once; otherwise N has to be a multiple of it.
    """
    outputs = []
    for start in range(0, len(samples), batch or len(samples)):
        runner.load(samples[start : start + (batch or len(samples))])
        runner.step()
        output = runner.output()
        if output.ndim != 2:
            raise UserError(
                f"{runner.runtime}: the output has shape {output.shape}; only classification "
                "networks, [batch, classes], can be compared."
            )
        outputs.append(output)
    return np.concatenate(outputs)
