"""Images that are read many times, decoded and preprocessed once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .image_set import ImageSet

_AT_ONCE = 16


@contextmanager
def spooled(images: ImageSet) -> Iterator[NDArray[np.float32]]:
    """[N, C, H, W] in a temporary file that is mapped into memory, not held there."""
    with tempfile.TemporaryDirectory(prefix="repvgg-deploy-") as folder:
        shape = (len(images), *images.shape)
        stored = np.lib.format.open_memmap(
            str(Path(folder) / "images.npy"), "w+", np.dtype(np.float32), shape
        )
        start = 0
        for batch in images.batches(_AT_ONCE):
            stored[start : start + len(batch)] = batch
            start += len(batch)
        stored.flush()
        yield stored
        del stored
