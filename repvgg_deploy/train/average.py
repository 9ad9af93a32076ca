"""A moving average of the weights and of the batch norms' statistics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """Exponential moving average of all parameters and buffers.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): the average of a short run
    forgets its first, random weights too (TensorFlow's ExponentialMovingAverage, ``num_updates``).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._averaged = AveragedModel(network, multi_avg_fn=self._blend, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """A network of its own, with the averaged weights and the keys of the one it follows."""
        module: nn.Module = self._averaged.module
        return module

    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step; those of the first are copied."""
        self._averaged.update_parameters(network)
        self.updates += 1

    def restore(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average.

        Raises:
            RuntimeError: keys or shapes are not the network's.
        """
        self.network.load_state_dict(state)
        self.updates = updates
        self._averaged.n_averaged.fill_(updates)

    def _blend(self, averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        # Our own count, since torch's is on the device by now, and to read it would wait for that.
        warm = (1 + self.updates) / (10 + self.updates)
        if averaged[0].is_floating_point():
            blend = get_ema_multi_avg_fn(min(self.decay, warm))  # type: ignore[no-untyped-call]
            blend(averaged, current, self.updates)
        else:  # batch norm's count of batches
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)
