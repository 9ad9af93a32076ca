"""What a run consists of at one step: weights, their average, the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import CheckFailed, UserError
from .average import Average
from .batch import Batch
from .optimizer import make_optimizer, set_learning_rate
from .processes import Processes
from .recipe import Recipe
from .sync_norm import synchronize_norms
from .task import Task


class State:
    """Made once a run, on the device of ``processes``."""

    def __init__(self, task: Task, recipe: Recipe, processes: Processes) -> None:
        self.task = task
        self.fabric = processes.fabric
        self._format = torch.channels_last if recipe.channels_last else torch.preserve_format
        network = cast("Any", task.network)
        self.network: nn.Module = network.to(processes.device, memory_format=self._format)
        if recipe.batch == 1 and any(isinstance(m, _BatchNorm) for m in self.network.modules()):
            raise UserError(
                "--batch 1 leaves batch norm nothing to take a mean over; choose 2 or more."
            )
        if recipe.recompute:
            network.recompute = True  # RepVGG's; other networks are not asked for it
        if processes.world > 1:
            synchronize_norms(self.network, processes.device)
        if recipe.precision == "bf16" and processes.device.type == "cpu":
            _refuse_single_pixels(self.network)
        self.average = None if recipe.ema is None else Average(self.network, recipe.ema)
        self._wrapped, self._optimizer = self.fabric.setup(
            self.network, make_optimizer(task.groups, recipe)
        )
        self._scaler = getattr(self.fabric.strategy.precision, "scaler", None)

    @property
    def averaged(self) -> nn.Module | None:
        """The network of averaged weights, where they are averaged."""
        return None if self.average is None else self.average.network

    def advance(self, batch: Batch, step: int, lr: float) -> Tensor:
        """One step of training; the loss stays on the device."""
        device = self.fabric.device
        images = batch.images.to(device, non_blocking=True, memory_format=self._format)
        labels = None if batch.labels is None else batch.labels.to(device, non_blocking=True)
        set_learning_rate(self._optimizer.optimizer, lr)
        loss: Tensor = self.task.objective(self._wrapped, Batch(images, labels), step)
        self._optimizer.zero_grad()
        self.fabric.backward(loss)
        self._optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        return loss.detach()

    def check_finite(self, step: int) -> None:
        """A loss may be finite and its gradient not.

        Raises:
            CheckFailed: weights or statistics are not finite.
        """
        for key, value in self.network.state_dict().items():
            if not bool(value.isfinite().all()):
                raise CheckFailed(
                    f"{key} is not finite after step {step}: training diverged; lower --lr, or "
                    "give it a longer warm-up."
                )

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        key = self.task.state_key
        content: dict[str, Any] = {key: self.network.state_dict()}
        if self.average is not None:
            content[f"{key}_ema"] = self.average.network.state_dict()
        content["optimizer"] = self._optimizer.state_dict()
        if self._scaler is not None:
            content["scaler"] = self._scaler.state_dict()
        return content

    def deployed(self) -> dict[str, Tensor]:
        """The weights to deploy: the average where there is one."""
        return (self.averaged or self.network).state_dict()

    def restore(self, content: Mapping[str, Any], step: int) -> None:
        """Go on from a checkpoint.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError, AttributeError: it does not fit.
        """
        key = self.task.state_key
        self.network.load_state_dict(content[key])
        if self.average is not None:
            self.average.restore(content[f"{key}_ema"], step)
        optimizer = self._optimizer.optimizer
        saved, own = content["optimizer"], optimizer.state_dict()["param_groups"]
        groups = [  # the settings are the run's, not the file's
            {**mine, "lr": float(kept["lr"])}
            for mine, kept in zip(own, saved["param_groups"], strict=True)
        ]
        optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        for parameter, kept in optimizer.state.items():
            if kept["momentum_buffer"].shape != parameter.shape:
                raise ValueError("a momentum of another shape")
        if self._scaler is not None:
            self._scaler.load_state_dict(content["scaler"])


def _refuse_single_pixels(network: nn.Module) -> None:
    """Of a convolution with stride 2 over a single pixel, oneDNN (torch 2.13, AVX-512 with bf16)
    leaves the gradient of what lies on padding unset, and thus random."""

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and inputs[0].shape[2:] == (1, 1):
            raise UserError(
                "bf16 training on the CPU gives wrong gradients where a 3x3 convolution sees a "
                "single pixel, as it does with images this small; take larger ones, or fp32."
            )

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_pre_hook(check)
