"""Batches on their way to a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repvgg_deploy.data.augment.augmentation import Augmentation
from repvgg_deploy.data.image_set import open_images
from repvgg_deploy.data.loader import TrainingBatches
from repvgg_deploy.data.preprocessing import PRESETS


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_lie_in_pinned_memory(tmp_path: Path, workers: int) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 32, 32, 3), np.uint8), y=np.arange(8))
    images = open_images(tmp_path / "x.npz", PRESETS["cifar-10"])
    chosen = Augmentation(flip=True, crop="shift")
    found = list(TrainingBatches(images, chosen, batch=4, seed=0, workers=workers).epoch(0))
    assert len(found) == 2
    for batch in found:
        assert batch.labels is not None
        assert batch.images.is_pinned() and batch.labels.is_pinned()
