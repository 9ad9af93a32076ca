"""SGD, and which parameters decay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD

from .recipe import Recipe


def parameter_groups(
    network: nn.Module, weight_decay: float, exempt: Collection[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without: biases, batch norms (those of the branches
    too) and ``exempt``, which custom L2 covers instead.

    Biases and batch norms are what has one dimension. (RepVGG paper, section 4.1.)
    """
    left_out = {id(parameter) for parameter in exempt}
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in left_out]
    taken = {id(p) for p in decayed}
    others = [p for p in parameters if id(p) not in taken]
    groups = [(decayed, weight_decay), (others, 0.0)]
    return [{"params": p, "weight_decay": decay} for p, decay in groups if p]


def make_optimizer(groups: Sequence[dict[str, Any]], recipe: Recipe) -> SGD:
    """SGD with momentum over ``groups``."""
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def set_learning_rate(optimizer: SGD, lr: float) -> None:
    """``lr`` for every group, times its ``lr_scale`` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
