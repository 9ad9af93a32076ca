"""Labelled or plain images, preprocessed as they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .arrays import open_arrays
from .cifar import cifar_splits, open_cifar
from .folder import open_folder
from .idx import holds_idx, is_idx, open_idx
from .label_file import read_labels
from .pixels import Frame, resize_and_crop
from .preprocessing import PRESETS, READY, Preprocessing
from .source import Labelled, Source

#: Images that go through a network at once, where it takes any number.
BATCH = 32


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of a source in its order; ``picked`` are their numbers there, ``labels`` their classes
    (None: not known).

    ``classes`` are the names of the classes where the source has them.
    """

    path: Path
    source: Source
    preprocessing: Preprocessing
    picked: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.picked)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """[C, H, W] of every image after preprocessing, which is that of the first."""
        return self.source.load(int(self.picked[0]), self.preprocessing).shape

    @cached_property
    def sha256(self) -> str:
        """Of the images as they are stored, their order and their labels."""
        digest = hashlib.sha256()
        for index in self.picked.tolist():
            digest.update(bytes.fromhex(self.source.sha256(index)))
        if self.labels is not None:
            digest.update(b"labels" + self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """[n, C, H, W], n = ``size`` but for the last; no more than one batch is in memory.

        Raises:
            UserError: an image that cannot be used, or of another size than the first.
        """
        for start in range(0, len(self), size):
            part = self.picked[start : start + size].tolist()
            yield np.stack([self.load(index) for index in part])

    def load(self, index: int, frame: Frame = resize_and_crop) -> NDArray[np.float32]:
        """The image of this number in the source, [C, H, W].

        Raises:
            UserError: it cannot be used, or is of another size than the first.
        """
        image = self.source.load(index, self.preprocessing, frame)
        if image.shape != self.shape:
            first, here = (f"{h}x{w}" for _, h, w in (self.shape, image.shape))
            raise UserError(
                f"{self.source.name(index)}: is {here} pixels after preprocessing and the first "
                f"image {first}; make them one size with --crop, or --resize HEIGHTxWIDTH."
            )
        return image

    def take(self, count: int, seed: int = 0) -> ImageSet:
        """``count`` of the images, spread evenly over the classes where labels are known.

        Which is drawn at random from ``seed``; more images hold the fewer. All where there are not
        as many.
        """
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self))
        if self.labels is not None:  # the first of every class, then the second of every class...
            turns, seen = np.empty(len(self), np.int64), dict[int, int]()
            for place, label in enumerate(self.labels[shuffled].tolist()):
                turns[place] = seen[label] = seen.get(label, -1) + 1
            shuffled = shuffled[np.argsort(turns, kind="stable")]
        return self.only(np.sort(shuffled[:count]))

    def only(self, places: NDArray[np.int64]) -> ImageSet:
        """The images at these places of the set."""
        labels = None if self.labels is None else self.labels[places]
        return replace(self, picked=self.picked[places], labels=labels)

    def without(self, others: ImageSet) -> ImageSet | None:
        """The images of this set that are not among ``others``, which are some of it; None where
        none is left."""
        left = np.flatnonzero(~np.isin(self.picked, others.picked))
        return self.only(left) if len(left) else None


def open_images(
    path: Path,
    preprocessing: Preprocessing | None,
    labels: Path | None = None,
    split: str | None = None,
) -> ImageSet:
    """A folder of images, IDX files (a file or their folder), a folder of CIFAR-10's binary files,
    a .npz or a .npy file.

    ``preprocessing`` None: not said, which is enough for what is preprocessed already. ``labels``
    is a file of them, in place of those beside the images; ``split`` picks one of several IDX
    files in a folder, or one of CIFAR-10's.

    Raises:
        UserError: no images there, files that cannot be used, or preprocessing that is not named
            and has to be, or is named for images that are preprocessed already.
    """
    found = _open(path, split)
    given = None if labels is None else read_labels(labels, len(found.source))
    how = _check_preprocessing(path, found.source, preprocessing)
    everything = np.arange(len(found.source))
    if given is not None:
        return ImageSet(path, found.source, how, everything, given, None)
    return ImageSet(path, found.source, how, everything, found.labels, found.classes)


def _open(path: Path, split: str | None) -> Labelled:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give your own images.")
    try:
        if path.is_dir() and holds_idx(path):
            return open_idx(path, split)
        if path.is_dir() and cifar_splits(path):
            return open_cifar(path, split)
        if split is not None:
            raise UserError(f"{path}: is no folder of IDX files or of CIFAR-10; leave out --split.")
        if path.is_dir():
            return open_folder(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if path.is_file() and is_idx(path):
        return open_idx(path, None)
    if path.is_file() and path.suffix.lower() in (".npz", ".npy"):
        return open_arrays(path)
    raise UserError(
        f"{path}: is no folder of images, no IDX file (its name would end in idx3-ubyte or "
        "idx3-ubyte.gz), and no .npz or .npy file."
    )


def _check_preprocessing(
    path: Path, source: Source, preprocessing: Preprocessing | None
) -> Preprocessing:
    if source.ready:
        if preprocessing not in (None, READY):
            raise UserError(
                f"{path}: holds floats, which count as preprocessed already, so nothing more can "
                "be done to them; give --preprocess none, or images as bytes."
            )
        return READY
    if preprocessing is None:
        presets = ", ".join(name for name, preset in PRESETS.items() if not preset.ready)
        raise UserError(
            f"{path}: its images have to be preprocessed as in training, and how is not known; "
            f"name it with --preprocess ({presets}), or with --mean, --std, --resize and --crop."
        )
    if preprocessing.ready:
        raise UserError(
            f"{path}: holds images as bytes, which are not preprocessed; name what has to be done "
            "to them with --preprocess."
        )
    return preprocessing
