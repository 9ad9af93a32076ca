"""Which images a network is quantized on, and which others say how good that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifacts import QuantizedArtifact
from ..data.image_set import BATCH, ImageSet, open_images
from ..data.preprocessing import Preprocessing
from ..errors import UserError


@dataclass(frozen=True)
class Calibration:
    """``fit`` is what ranges and weights are chosen on. ``measured`` is what the result is judged
    on: other images of the same source, or ``fit`` where there are none.

    ``drawn``: both can be found again by :func:`pick_images`; else by their numbers."""

    fit: ImageSet
    measured: ImageSet
    split: str | None
    seed: int
    drawn: bool = True

    @property
    def held_out(self) -> bool:
        return self.measured is not self.fit

    def record(self) -> dict[str, Any]:
        """For the sidecar: enough to find the same images again."""
        numbers = {
            "measured_path": str(self.measured.path.resolve()),
            "numbers": self.fit.picked.tolist(),
            "measured_numbers": self.measured.picked.tolist(),
        }
        return {
            "path": str(self.fit.path.resolve()),
            "split": self.split,
            "sha256": self.fit.sha256,
            "samples": len(self.fit),
            "seed": self.seed,
            "measured_samples": len(self.measured),
            "measured_sha256": self.measured.sha256,
            "preprocessing": self.fit.preprocessing.to_dict(),
            **({} if self.drawn else numbers),
        }


def pick_images(images: ImageSet, samples: int, split: str | None, seed: int) -> Calibration:
    """``samples`` images to fit, drawn by ``seed``, and as many others to measure on."""
    fit = images.take(samples, seed)
    others = images.without(fit)
    measured = fit if others is None else others.take(samples, seed)
    return Calibration(fit, measured, split, seed)


def pick_training_images(
    train: ImageSet, val: ImageSet | None, samples: int, seed: int
) -> Calibration:
    """``samples`` images of a training set to fit, drawn by ``seed``, and as many of its validation
    set to measure on: the other images of the training set are trained on."""
    fit = train.take(samples, seed)
    return Calibration(fit, fit if val is None else val.take(samples, seed), None, seed, False)


def measured_again(artifact: QuantizedArtifact) -> Iterator[NDArray[np.float32]] | None:
    """The images that an int8 model was judged on; None where they are not here any more."""
    found = _found_again(artifact.calibration, "measured_")
    return None if found is None else found.batches(artifact.input_shape[0] or BATCH)


def calibrated_on(artifact: QuantizedArtifact) -> ImageSet | None:
    """The images that an int8 model was calibrated with; None where they are not here any more."""
    return _found_again(artifact.calibration, "")


def _found_again(record: dict[str, Any], which: str) -> ImageSet | None:
    """The images with the SHA-256 that is recorded, ``which`` being "" or "measured_"."""
    search = _by_numbers if "numbers" in record else _by_draw
    try:
        for found in search(record, which):
            if found.sha256 == record[f"{which}sha256"]:
                return found
    except (KeyError, TypeError, ValueError, IndexError):
        pass
    return None


def _by_draw(record: dict[str, Any], which: str) -> Iterator[ImageSet]:
    images = _open(record, record["path"], record.get("split"))
    if images is not None:
        found = pick_images(images, record["samples"], record.get("split"), record["seed"])
        yield found.measured if which else found.fit


def _by_numbers(record: dict[str, Any], which: str) -> Iterator[ImageSet]:
    numbers = np.array(record[f"{which}numbers"], np.int64)
    for split in (None, "train", "test"):
        images = _open(record, record[f"{which}path"], split)
        if images is not None and (len(numbers) == 0 or numbers.max() < len(images)):
            labels = None if images.labels is None else images.labels[numbers]
            yield replace(images, picked=numbers, labels=labels)


def _open(record: dict[str, Any], path: str, split: str | None) -> ImageSet | None:
    try:
        how = Preprocessing.from_dict(record["preprocessing"])
        return open_images(Path(path), how, split=split)
    except (UserError, OSError):
        return None
