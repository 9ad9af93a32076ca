"""Which images a network is quantized on, and which others say how good that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    on: other images of the same source, or ``fit`` where there are none."""

    fit: ImageSet
    measured: ImageSet
    split: str | None
    seed: int

    @property
    def held_out(self) -> bool:
        return self.measured is not self.fit

    def record(self) -> dict[str, Any]:
        """For the sidecar: enough to find the same images again."""
        return {
            "path": str(self.fit.path.resolve()),
            "split": self.split,
            "sha256": self.fit.sha256,
            "samples": len(self.fit),
            "seed": self.seed,
            "measured_samples": len(self.measured),
            "measured_sha256": self.measured.sha256,
            "preprocessing": self.fit.preprocessing.to_dict(),
        }


def pick_images(images: ImageSet, samples: int, split: str | None, seed: int) -> Calibration:
    """``samples`` images to fit, drawn by ``seed``, and as many others to measure on."""
    fit = images.take(samples, seed)
    others = images.without(fit)
    measured = fit if others is None else others.take(samples, seed)
    return Calibration(fit, measured, split, seed)


def measured_again(artifact: QuantizedArtifact) -> Iterator[NDArray[np.float32]] | None:
    """The images that an int8 model was judged on; None where they are not here any more."""
    found = _found_again(artifact)
    if found is None or found.measured.sha256 != artifact.calibration["measured_sha256"]:
        return None
    return found.measured.batches(artifact.input_shape[0] or BATCH)


def calibrated_on(artifact: QuantizedArtifact) -> ImageSet | None:
    """The images that an int8 model was calibrated with; None where they are not here any more."""
    found = _found_again(artifact)
    if found is None or found.fit.sha256 != artifact.calibration["sha256"]:
        return None
    return found.fit


def _found_again(artifact: QuantizedArtifact) -> Calibration | None:
    """The same draw from what lies there now."""
    record = artifact.calibration
    try:
        images = open_images(
            Path(record["path"]),
            Preprocessing.from_dict(record["preprocessing"]),
            split=record.get("split"),
        )
        found = pick_images(images, record["samples"], record.get("split"), record["seed"])
        return found if "measured_sha256" in record else None
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None
