"""What a worker process does: decode, augment and stack the images of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from .augment.augmentation import NONE, Augmentation
from .augment.frame import random_frame
from .image_set import ImageSet
from .pixels import resize_and_crop

#: An epoch, and the places of images in the set.
Key = tuple[int, NDArray[np.int64]]
#: Images and their labels. An error is handed over as it is: DataLoader would raise one whose
#: sentence is the worker's traceback.
Decoded = tuple[Tensor, Tensor | None] | UserError


@dataclass(frozen=True, eq=False)
class Decoder(Dataset[Decoded]):
    """Batches by their keys."""

    images: ImageSet
    augmentation: Augmentation
    seed: int

    def __getitem__(self, key: Key) -> Decoded:
        epoch, places = key
        numbers = self.images.picked[places].tolist()
        try:
            stacked = np.stack([self._image(epoch, number) for number in numbers])
        except UserError as error:
            return error
        labels = self.images.labels
        chosen = None if labels is None else torch.from_numpy(labels[places])
        return torch.from_numpy(stacked), chosen

    def _image(self, epoch: int, number: int) -> NDArray[np.float32]:
        if self.augmentation == NONE:
            return self.images.load(number, resize_and_crop)
        return self.images.load(number, random_frame(self.augmentation, self.seed, epoch, number))
