"""A checkpoint file, training or deploy form, as a network that can be built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint.load import Checkpoint, load_checkpoint
from ..data.samples import load_samples
from ..equivalence.samples import probe_inputs
from ..errors import UserError
from ..models.build import build, check_layout
from ..models.infer import infer
from ..models.network import RepVGG
from ..models.spec import OFFICIAL_EPS, ArchSpec, Form
from ..reparam.blocks import TrainBlock, find_train_blocks
from ..reparam.families import OFFICIAL

#: Pixels a side of the images that a proof makes up: the smallest power of two at which the last
#: stage of a RepVGG still sees more than one pixel.
PROOF_SIZE = 64
TORCH_DTYPE = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class NetworkFile:
    """A checked checkpoint with the architecture that its shapes tell."""

    checkpoint: Checkpoint
    spec: ArchSpec
    form: Form
    blocks: list[TrainBlock]

    def build(self, dtype: torch.dtype = torch.float32) -> RepVGG:
        """The network in its own form."""
        return build(self.checkpoint.state, self.spec, self.form, dtype)


def read_network(path: Path, eps: float = OFFICIAL_EPS) -> NetworkFile:
    """Read and check a RepVGG or RepVGGplus checkpoint in either form.

    ``eps`` is that of the batch norms, which no state dict holds.

    Raises:
        UserError: one sentence that names the file and what is wrong with it.
    """
    checkpoint = load_checkpoint(path)
    try:
        inferred = infer(checkpoint.state, eps)
        check_layout(checkpoint.state, inferred.spec, inferred.form)
        blocks = find_train_blocks(checkpoint.state, OFFICIAL)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return NetworkFile(checkpoint, inferred.spec, inferred.form, blocks)


def proof_samples(
    spec: ArchSpec, images: Path | None, size: tuple[int, int] = (PROOF_SIZE, PROOF_SIZE)
) -> NDArray[np.float32]:
    """Inputs for a proof: the user's images where given, else seeded noise and the extremes."""
    if images is not None:
        return load_samples(images, spec.in_channels)
    return probe_inputs(spec.in_channels, *size)
