"""Whether images are fit to calibrate with."""

from __future__ import annotations

from ..errors import UserError
from .image_set import ImageSet

#: Below this the ranges depend on which images they happen to be.
FEW = 32


def check_calibration(images: ImageSet, channels: int) -> list[str]:
    """Sentences to be printed; empty where nothing is wrong.

    Looks at as many images as it takes: NaN, infinity and other sizes are told while streaming.

    Raises:
        UserError: other channels than the network's, or images that are all alike or all of one
            colour.
    """
    check_channels(images, channels)
    first = next(images.batches(1))
    varied, different = False, len(images) == 1
    for batch in images.batches(1):
        varied = varied or bool((batch != batch[:, :, :1, :1]).any())
        different = different or bool((batch != first).any())
        if varied and different:
            break
    if not varied:
        raise UserError(f"{images.path}: every image is of one colour; give real images.")
    if not different:
        raise UserError(f"{images.path}: all {len(images)} images are the same; give others.")
    if len(images) < FEW:
        count = "1 image" if len(images) == 1 else f"{len(images)} images"
        return [
            f"{images.path}: {count} to calibrate with; ranges from fewer than {FEW} depend on "
            "which images they are, so give some hundreds."
        ]
    return []


def check_channels(images: ImageSet, channels: int, network: str = "the network") -> None:
    """UserError where the images have other channels than ``network`` takes."""
    if (own := images.shape[0]) != channels:
        count = "1 channel" if own == 1 else f"{own} channels"
        remedy = "" if images.preprocessing.ready else f" with --channels {channels}"
        raise UserError(
            f"{images.path}: its images have {count} after preprocessing, and "
            f"{network} takes {channels}; preprocess them{remedy} as in training."
        )
