"""How far a run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..rebuild import rebuild
from .record import Epoch
from .validation import Validation


@dataclass
class Progress:
    """``step`` of the run are done; ``epochs`` are done and validated. ``loss_sum`` and ``seconds``
    are of the steps of the epoch under way."""

    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """Plain values for a checkpoint; ``epoch`` counts those that are done."""
        return {
            "step": self.step,
            "epoch": len(self.epochs),
            "progress": {
                "loss_sum": self.loss_sum,
                "seconds": self.seconds,
                "epochs": [asdict(epoch) for epoch in self.epochs],
            },
        }

    @staticmethod
    def read(content: Mapping[str, Any], steps_per_epoch: int) -> Progress:
        """What ``content()`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        step, rest = content["step"], content["progress"]
        epochs = rebuild(list[Epoch], rest["epochs"])
        if (
            type(step) is not int
            or not 0 <= step - len(epochs) * steps_per_epoch <= steps_per_epoch
        ):
            raise ValueError("step and epochs do not go together")
        if [epoch.epoch for epoch in epochs] != list(range(1, len(epochs) + 1)):
            raise ValueError("epochs that are not counted from 1")
        if not (math.isfinite(rest["loss_sum"]) and 0 <= rest["seconds"] < math.inf):
            raise ValueError("sums that are no numbers")
        return Progress(step, float(rest["loss_sum"]), float(rest["seconds"]), epochs)

    def end_epoch(
        self, lr: float, steps: int, images: int, weights: Validation, average: Validation
    ) -> Epoch:
        """Count an epoch of so many ``steps`` and ``images`` as done; ``lr`` is that of its last
        step."""
        done = Epoch(
            epoch=len(self.epochs) + 1,
            step=self.step,
            lr=lr,
            loss=self.loss_sum / steps,
            val_loss=weights.loss,
            val_top1=weights.top1,
            val_top5=weights.top5,
            ema_loss=average.loss,
            ema_top1=average.top1,
            ema_top5=average.top5,
            seconds=self.seconds,
            images_per_second=images / self.seconds,
        )
        self.epochs.append(done)
        self.loss_sum = self.seconds = 0.0
        return done

    def best(self) -> Epoch | None:
        """The first of the epochs with the best top-1; None where nothing was validated."""
        measured = [epoch for epoch in self.epochs if top1(epoch) is not None]
        return max(measured, key=lambda epoch: top1(epoch) or 0.0, default=None)


def top1(epoch: Epoch) -> float | None:
    """Of the weights that get deployed: the average's where there is one."""
    return epoch.val_top1 if epoch.ema_top1 is None else epoch.ema_top1
