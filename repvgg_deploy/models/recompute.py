"""Memory for time: what a block computes inside is not kept but computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, run again in the backward pass; batch norms count the batch once (gradient
    checkpointing, arXiv 1604.06174)."""
    output: Tensor = checkpoint(
        block, x,
        use_reentrant=False,
        preserve_rng_state=False,  # a block draws nothing at random
        context_fn=lambda: (nullcontext(), _statistics_untouched(block)),
    )  # fmt: skip
    return output


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """Running statistics are written to copies: to turn them off would change which tensors a
    batch norm keeps for its gradient, which torch refuses in a recomputation."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [norm._buffers for norm in norms]
    for norm in norms:
        norm._buffers = {k: None if b is None else b.clone() for k, b in norm._buffers.items()}
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers = buffers
