"""What an image set is read from: a folder or arrays, one image at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .pixels import Frame, resize_and_crop
from .preprocessing import Preprocessing


class Source(Protocol):
    """Images by their number, in an order that does not change."""

    @property
    def ready(self) -> bool:
        """Whether they are preprocessed already."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """For the sentences of errors."""

    def load(
        self, index: int, how: Preprocessing, frame: Frame = resize_and_crop
    ) -> NDArray[np.float32]:
        """Preprocessed, [C, H, W]; UserError where the image cannot be used.

        Images that are preprocessed already have no use for ``frame``.
        """

    def sha256(self, index: int) -> str:
        """Of the image as it is stored, in hex."""


@dataclass(frozen=True)
class Labelled:
    """A source with the class [N] of every image, None where they are not known.

    ``classes`` are the names of the classes where the source says what they are.
    """

    source: Source
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
