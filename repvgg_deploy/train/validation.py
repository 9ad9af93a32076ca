"""Loss and accuracy on images that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..evaluation.tally import TOP
from .batch import Batch
from .processes import Processes


@dataclass(frozen=True)
class Validation:
    """``top1`` and ``top5`` in percent; ``top5`` is None where there are too few classes."""

    loss: float | None
    top1: float | None
    top5: float | None


NOT_VALIDATED = Validation(None, None, None)


def validate(
    network: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    processes: Processes,
    between: Callable[[], None],
) -> Validation:
    """In fp32, as the weights are stored, over the images of all processes together.

    ``between`` is called after every batch. The loss is cross entropy alone, the same whatever a
    recipe adds to it in training. Answers are counted as ``repvgg-deploy evaluate`` counts them: of
    equal logits the first goes first, and what is not finite is wrong.
    """
    network.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=processes.device)
    with torch.inference_mode():
        for batch in batches:
            images = batch.images.to(processes.device, non_blocking=True)
            labels = _labels(batch).to(processes.device, non_blocking=True)
            logits = network(images)
            totals += _counts(logits, labels)
            between()
    loss, top1, top5, count = processes.total(totals).tolist()
    top5_percent = 100 * top5 / count if num_classes > TOP else None
    return Validation(loss / count, 100 * top1 / count, top5_percent)


def _labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError("validation needs labels")
    return batch.labels


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[4]: summed loss, images right at first, among the first five, images."""
    loss = functional.cross_entropy(logits.double(), labels, reduction="sum")
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    rank = torch.where(logits.isfinite().all(1), rank, logits.shape[1])
    count = torch.full_like(loss, len(labels))
    return torch.stack([loss, (rank == 0).sum().double(), (rank < TOP).sum().double(), count])
