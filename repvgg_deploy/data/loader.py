"""Images in batches, decoded by worker processes: the same batches whatever their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .augment.augmentation import NONE, Augmentation, output_size
from .batch import Batch
from .decoder import Decoder
from .image_set import ImageSet
from .worker_pool import WorkerPool


class TrainingBatches:
    """An epoch is a random order of the images, cut into batches of ``batch``; this process gets
    its part of each, the place ``rank`` among ``world``.

    Order and augmentation depend on seed, epoch and image alone. ``workers`` processes decode
    ahead; they start at the first epoch and stay. With 0 this one does it. ``shape`` is [C, H, W]
    of every image.

    Raises:
        UserError: a batch that ``world`` does not divide, fewer images than a batch, or an
            augmentation that these images cannot have.
    """

    def __init__(
        self,
        images: ImageSet,
        augmentation: Augmentation,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        check_training(images, augmentation, batch, world)
        self._images, self._batch, self._seed = len(images), batch, seed
        self.shape = images.shape
        self._part = slice(rank * batch // world, (rank + 1) * batch // world)
        self._pool = WorkerPool(Decoder(images, augmentation, seed), workers)

    def __len__(self) -> int:
        """Batches in an epoch; an incomplete last one is left out."""
        return self._images // self._batch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0) from batch ``first`` on; those before are not decoded.

        Raises:
            UserError: an image that cannot be used, or a worker that ended.
        """
        order = epoch_order(self._images, self._seed, epoch)
        starts = range(first * self._batch, len(self) * self._batch, self._batch)
        parts = [order[start : start + self._batch][self._part] for start in starts]
        return self._pool.batches([(epoch, part) for part in parts])


class ValidationBatches:
    """Images as evaluation sees them, in batches of ``size`` and what is left; this process has the
    part ``rank`` of ``world``, and every image is in one part. ``shape`` is [C, H, W] of every
    image."""

    def __init__(
        self, images: ImageSet, size: int, *, rank: int = 0, world: int = 1, workers: int = 0
    ) -> None:
        self.shape = images.shape
        mine = np.array_split(np.arange(len(images)), world)[rank]
        self._keys = [(0, mine[start : start + size]) for start in range(0, len(mine), size)]
        self._pool = WorkerPool(Decoder(images, NONE, 0), workers)

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        """As often as wanted.

        Raises:
            UserError: an image that cannot be used, or a worker that ended.
        """
        return self._pool.batches(self._keys)


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The places of a set in the order of an epoch. The 1 sets its numbers apart from those of the
    images' augmentation, which are drawn from (seed, epoch, image)."""
    return np.random.default_rng((seed, epoch, 0, 1)).permutation(images)


def check_training(images: ImageSet, augmentation: Augmentation, batch: int, world: int) -> None:
    """Of images that cannot be trained on in such batches.

    Raises:
        UserError: a batch that ``world`` does not divide, fewer images than a batch, or an
            augmentation that such images cannot have.
    """
    _check_batch(images, batch, world)
    _check_augmentation(images, augmentation)


def _check_batch(images: ImageSet, batch: int, world: int) -> None:
    if batch < 1 or batch % world:
        raise UserError(
            f"--batch {batch}: cannot be divided among {world} processes; give a multiple of "
            f"{world}."
        )
    if len(images) < batch:
        raise UserError(
            f"{images.path}: has {len(images)} images to train on, fewer than a batch of {batch}; "
            "give a smaller --batch, or more images."
        )


def _check_augmentation(images: ImageSet, augmentation: Augmentation) -> None:
    if images.source.ready and augmentation != NONE:
        raise UserError(
            f"{images.path}: holds floats, which are preprocessed already, so they cannot be "
            f"augmented ({augmentation}); train without augmentation, or give images as bytes."
        )
    if augmentation.crop == "resized" and output_size(images.preprocessing) is None:
        raise UserError(
            f"{images.path}: a random part needs a size to be resized to; give --crop, or --resize "
            "HEIGHTxWIDTH."
        )
