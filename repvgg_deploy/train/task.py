"""What a run trains, on what, and what is written down about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .batch import Batch, Batches, Objective
from .record import TrainRecord


@dataclass(frozen=True)
class Task:
    """``network`` is moved to the device and trained in place. Its state dict is what is stored,
    under ``state_key``, and that of a moving average under ``state_key`` with ``_ema``. In eval
    mode it gives logits [n, classes].

    ``groups`` are the optimizer's (:func:`~repvgg_deploy.train.optimizer.parameter_groups`), each
    with an ``lr_scale`` where its learning rate differs. ``batches`` and what ``validation`` gives
    are this process's part; without ``validation`` there is no best checkpoint. ``record`` is what
    train.json says, but for epochs, end and checkpoints, which the loop fills in.
    """

    network: nn.Module
    objective: Objective
    groups: Sequence[dict[str, Any]]
    batches: Batches
    validation: Callable[[], Iterable[Batch]] | None
    record: TrainRecord
    state_key: str = "state_dict"
