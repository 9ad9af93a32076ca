"""Fashion-MNIST at 32 px: the images that every method calibrates on, and the test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repvgg_deploy.data.image_set import open_images
from repvgg_deploy.data.preprocessing import PRESETS

CALIBRATION_IMAGES = 512
CALIBRATION_SEED = 0
#: As docs/demo-checkpoint/train.py trains on it.
PREPROCESSING = PRESETS["fashion-mnist-32"]


def calibration_images(data: Path) -> NDArray[np.float32]:
    """512 images of the training set, by a seeded choice: the same for every method."""
    images = open_images(data / "train-images-idx3-ubyte.gz", PREPROCESSING)
    chosen = np.random.default_rng(CALIBRATION_SEED).permutation(len(images))
    every = np.concatenate(list(images.batches(500)))
    picked: NDArray[np.float32] = every[chosen[:CALIBRATION_IMAGES]]
    return picked


def test_images(data: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 10,000 test images and their labels; no method sees them before it is judged."""
    images = open_images(data / "t10k-images-idx3-ubyte.gz", PREPROCESSING)
    assert images.labels is not None
    return np.concatenate(list(images.batches(500))), images.labels
