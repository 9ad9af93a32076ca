"""Fashion-MNIST at 32 px: the images that every method calibrates on, and the test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repvgg_deploy.data.fashion_mnist import MEAN, STD, read_idx

CALIBRATION_IMAGES = 512
CALIBRATION_SEED = 0


def prepared(images: NDArray[np.uint8], channels: int) -> NDArray[np.float32]:
    """Bytes [N, 28, 28] -> float32 [N, channels, 32, 32]: a black border of 2 px, normalised.

    As docs/demo-checkpoint/train.py trains on it; grey is repeated to ``channels``.
    """
    bordered = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    scaled = (bordered.astype(np.float32) / 255.0 - MEAN) / STD
    return np.repeat(scaled[:, None], channels, axis=1)


def calibration_images(data: Path, channels: int) -> NDArray[np.float32]:
    """512 images of the training set, by a seeded choice: the same for every method."""
    images = read_idx(data / "train-images-idx3-ubyte.gz")
    chosen = np.random.default_rng(CALIBRATION_SEED).permutation(len(images))
    return prepared(images[chosen[:CALIBRATION_IMAGES]], channels)


def test_images(data: Path, channels: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 10,000 test images and their labels; no method sees them before it is judged."""
    images = read_idx(data / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(data / "t10k-labels-idx1-ubyte.gz")
    return prepared(images, channels), labels.astype(np.int64)
