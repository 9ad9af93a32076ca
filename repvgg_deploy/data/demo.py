"""The bundled checkpoint and its labelled test images."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .fashion_mnist import preprocess

#: The bundled network's own image size (height, width): Fashion-MNIST with every pixel doubled.
DEMO_IMAGE_SIZE = (56, 56)


def demo_checkpoint() -> Path:
    """Path of the training checkpoint inside the installed package."""
    return Path(str(files("repvgg_deploy.demo") / "demo.pth"))


def demo_images_file() -> Path:
    """Path of the labelled test images, as they are before preprocessing."""
    return Path(str(files("repvgg_deploy.demo") / "demo_images.npz"))


def demo_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Preprocessed test images [512, 1, 56, 56] and their labels [512]."""
    with np.load(demo_images_file()) as content:
        return preprocess(content["images"]), content["labels"].astype(np.int64)
