"""The learning rate of a step."""

from __future__ import annotations

import math

from .recipe import Recipe


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Of a step (from 0): linear warm-up, then a cosine from the peak down to 0 (RepVGG paper,
    section 4.1; Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    A function of the step alone, so that a resumed run needs no state for it.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
