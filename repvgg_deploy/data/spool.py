"""Images that are read many times, decoded and preprocessed once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .image_set import BATCH, ImageSet


@dataclass(frozen=True)
class Spool:
    """``stored`` is [N, C, H, W], mapped into memory, not held there."""

    stored: NDArray[np.float32]

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """All images in their order, [n, C, H, W] each; as often as wanted."""
        return (self.stored[i : i + BATCH] for i in range(0, len(self.stored), BATCH))


@contextmanager
def spooled(images: ImageSet) -> Iterator[Spool]:
    """The images in a temporary file, which is gone after."""
    with tempfile.TemporaryDirectory(prefix="repvgg-deploy-") as folder:
        shape = (len(images), *images.shape)
        stored = np.lib.format.open_memmap(
            str(Path(folder) / "images.npy"), "w+", np.dtype(np.float32), shape
        )
        start = 0
        for batch in images.batches(BATCH):
            stored[start : start + len(batch)] = batch
            start += len(batch)
        stored.flush()
        yield Spool(stored)
        del stored
