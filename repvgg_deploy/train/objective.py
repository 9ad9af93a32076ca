"""What training makes small: cross entropy, with what regularizes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from .batch import Batch
from .recipe import Recipe

Logits = Tensor | dict[str, Tensor]

#: Sets its random numbers apart from those of the data, which (seed, epoch, ...) gives.
_MIXUP = 2


class Supervised:
    """Cross entropy against labels: label smoothing, mixup, auxiliary heads.

    ``penalty`` is added as it is: custom L2, of the network itself and not of what Fabric wraps
    around it, as mixed precision is not for weights.
    """

    def __init__(self, recipe: Recipe, penalty: Callable[[], Tensor] | None = None) -> None:
        self.recipe = recipe
        self.penalty = penalty

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        """As :class:`~repvgg_deploy.train.batch.Objective`; the batch must have labels."""
        recipe, labels = self.recipe, batch.labels
        if labels is None:
            raise ValueError("cross entropy needs labels")
        if recipe.mixup:
            share = mixing_share(recipe, step)
            logits = network(mix_neighbours(batch.images, share))
            loss = share * label_loss(logits, labels, recipe)
            loss = loss + (1 - share) * label_loss(logits, neighbours(labels), recipe)
        else:
            loss = label_loss(network(batch.images), labels, recipe)
        return loss if self.penalty is None else loss + self.penalty()


def label_loss(logits: Logits, labels: Tensor, recipe: Recipe) -> Tensor:
    """Mean cross entropy with label smoothing (Szegedy et al., arXiv 1512.00567, section 7).

    ``logits`` [n, classes], or in a dict: ``main`` counts 1, others (RepVGGplus' auxiliary heads)
    ``aux_weight`` each.
    """
    heads = logits if isinstance(logits, dict) else {"main": logits}
    losses = {
        head: functional.cross_entropy(each, labels, label_smoothing=recipe.label_smoothing)
        for head, each in heads.items()
    }
    main = losses.pop("main")
    return sum((recipe.aux_weight * loss for loss in losses.values()), main)


def mixing_share(recipe: Recipe, step: int) -> float:
    """What an image keeps of itself in mixup (Zhang et al., arXiv 1710.09412), from Beta(a, a);
    the same for all processes."""
    generator = np.random.default_rng((recipe.seed, step, 0, _MIXUP))
    return float(generator.beta(recipe.mixup, recipe.mixup))


def mix_neighbours(images: Tensor, share: float) -> Tensor:
    """``share`` of each image and 1 - ``share`` of its neighbour."""
    return share * images + (1 - share) * neighbours(images)


def neighbours(values: Tensor) -> Tensor:
    """Entries 2i and 2i + 1 exchanged: partners are in one process' part of the batch, however
    many there are. The length is even."""
    return values.reshape(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)
