"""What an exported model is held against: the weights on samples of the model's own shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.samples import load_samples
from ..equivalence.samples import probe_inputs
from ..errors import UserError
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math
from .weights import PROOF_SIZE, TORCH_DTYPE, Network

#: Samples of a proof, as far as the batch of the model allows.
_SAMPLES = 8

Array = NDArray[np.float64]


def run_weights(
    network: Network, precision: str, device: torch.device, samples: NDArray[np.float32]
) -> tuple[Array, Array]:
    """In float64, which is the truth, and in ``precision``; [N, classes] each."""
    with exact_math():
        truth = run(TorchRunner(network.build(torch.float64), device), samples)
        return truth, run(TorchRunner(network.build(TORCH_DTYPE[precision]), device), samples)


def check_channels(network: Network, weights: Path, channels: int, model: Path) -> None:
    """UserError where the model at ``model`` takes images of other channels."""
    if network.spec.in_channels != channels:
        raise UserError(
            f"{model}: takes images of {channels} channels and {weights} of "
            f"{network.spec.in_channels}; these are two networks."
        )


def pick_samples(
    model: Path, image: tuple[int, int, int], least: int, most: int | None, images: Path | None
) -> tuple[NDArray[np.float32], int]:
    """Samples of the model's own size, and how many it takes at once; a whole number of batches.

    ``image`` is (channels, height, width), 0 for any size; the model takes ``least`` to ``most`` at
    once, None: any number. ``images`` None: seeded noise and the extremes, of PROOF_SIZE where any
    size will do.

    Raises:
        UserError: images of another size, or fewer than the model takes at once.
    """
    channels, height, width = image
    if images is None:
        batch = max(least, _SAMPLES if most is None else min(most, _SAMPLES))
        sides = height or PROOF_SIZE, width or PROOF_SIZE
        return probe_inputs(channels, *sides, batch * -(-_SAMPLES // batch)), batch
    samples = load_samples(images, channels)
    if any(
        side not in (0, has) for side, has in zip((height, width), samples.shape[2:], strict=True)
    ):
        raise UserError(f"{images}: {model} takes images of {height}x{width} pixels.")
    if len(samples) < least:
        takes = f"{least} images at once" if least == most else f"at least {least} images"
        raise UserError(f"{images}: {model} takes {takes}; give that many.")
    batch = len(samples) if most is None else min(len(samples), most)
    return samples[: len(samples) - len(samples) % batch], batch
