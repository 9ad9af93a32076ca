"""A folder of image files; its sub-folders are classes, as torchvision's ImageFolder has them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..files import sha256_file
from .pixels import Frame, resize_and_crop, to_input
from .preprocessing import Preprocessing
from .source import Labelled

#: torchvision's list.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: What such a file may hold, whatever its name: Pillow also has decoders that start programs.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: Of more than 8 bits; Pillow cuts them off at 255 when it makes them RGB: they would be white.
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
#: Sub-folders of these names hold parts of a data set, not classes.
TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation", "test")
_SPLITS = {*TRAIN_FOLDERS, *VAL_FOLDERS}


@dataclass(frozen=True, eq=False)
class Files:
    """Image files, decoded each time they are asked for; ``digests`` [N, 32] are their SHA-256
    where those have been taken."""

    paths: tuple[Path, ...]
    digests: NDArray[np.uint8] | None = None
    ready = False

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def load(
        self, index: int, how: Preprocessing, frame: Frame = resize_and_crop
    ) -> NDArray[np.float32]:
        path = self.paths[index]
        picture = decode(path)
        try:
            return to_input(picture, how, frame)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def sha256(self, index: int) -> str:
        if self.digests is not None:
            return bytes(self.digests[index]).hex()
        try:
            return sha256_file(self.paths[index])
        except OSError as error:
            raise UserError(f"{self.paths[index]}: cannot be read: {error.strerror}.") from error


def open_folder(folder: Path) -> Labelled:
    """All images below a folder. The order is that of torchvision's ImageFolder: sub-folders by
    name, whose place is the label, and the files of each by path. A flat folder has no labels.

    Hidden files and folders are left out; folders that are links are followed at the top only.

    Raises:
        UserError: no images, images beside classes, or classes that are splits of a data set.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    flat = [path for path in entries if _is_image(path)]
    classes = [path for path in entries if path.is_dir()]
    files = {path.name: list(_images_below(path)) for path in classes}
    if not any(files.values()):
        if not flat:
            raise UserError(
                f"{folder}: holds no images ({', '.join(SUFFIXES)}); name a folder of images, of "
                "IDX files, or a .npz file."
            )
        return Labelled(Files(tuple(flat)))
    if flat:
        raise UserError(
            f"{folder}: holds images beside folders of images, so its folders are no classes; name "
            "one of the folders, or move the images into one."
        )
    if _SPLITS.issuperset(files):
        raise UserError(
            f"{folder}: its folders {', '.join(files)} are parts of a data set, not classes; name "
            f"one of them, such as {classes[-1]}."
        )
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    paths = [path for below in files.values() for path in below]
    return Labelled(Files(tuple(paths)), labels.astype(np.int64), tuple(files))


def decode(path: Path) -> Image.Image:
    """The picture of a file in RGB, as the loaders of torchvision and timm give it.

    Those drop transparency, take the first of several frames, convert CMYK without a profile, and
    leave pictures as they are stored where a camera noted that they are to be turned (EXIF): a
    network was trained on what they give, so that is given here.

    Raises:
        UserError: no picture of a known format, damaged, cut off, of huge size, or of 16 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of palettes and of damaged notes beside the picture
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                mode = picture.mode
                converted: Image.Image = picture.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged file makes it stumble on
        raise UserError(
            f"{path}: cannot be decoded ({str(error)[:200]}); leave it out or save it again."
        ) from error
    if mode in _DEEP:
        raise UserError(
            f"{path}: has pixels of more than 8 bits ({mode}); save it with 8 bits a channel."
        )
    return converted


def _images_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if not name.startswith(".") and _is_image(path):
                yield path


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is not passed over."""
    raise error


def _is_image(path: Path) -> bool:
    """By the name; a folder or a pipe of such a name is none."""
    return path.suffix.lower() in SUFFIXES and path.is_file()
