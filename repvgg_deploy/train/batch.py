"""What a step of training sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from ..data.batch import Batch as Batch


class Batches(Protocol):
    """A training set in batches; this process's part of each, where there are several processes."""

    def __len__(self) -> int:
        """Batches in an epoch; an incomplete last one is left out."""

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0) from batch ``first`` on.

        Order and augmentation depend on seed, epoch and image alone: not on the number of workers
        or processes, nor on where an earlier run was interrupted.
        """


class Objective(Protocol):
    """What is made small."""

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        """The mean loss of a batch, a scalar. ``step`` counts from 0 over all epochs; what is drawn
        at random depends on it and on the seed alone."""
