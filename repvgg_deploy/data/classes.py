"""The classes of a training set, and of what it is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .folder import Files
from .image_set import ImageSet

#: Names in a sentence.
_NAMED = 3


def some(names: Sequence[str]) -> str:
    """The first few of many."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def empty_classes(images: ImageSet) -> list[str]:
    """The names of classes that have no image; none where classes have no names."""
    if images.labels is None or images.classes is None:
        return []
    there = np.isin(np.arange(len(images.classes)), images.labels)
    return [name for name, has in zip(images.classes, there, strict=True) if not has]


def check_no_empty_class(images: ImageSet) -> None:
    """UserError where a folder that is a class holds no images: its place counts all the same."""
    empty = empty_classes(images)
    if empty and isinstance(images.source, Files):
        raise UserError(
            f"{images.path / empty[0]}: holds no images, and is a class by its place; put images "
            "into it, or take it away."
        )


def count_classes(images: ImageSet) -> int | None:
    """None without labels; UserError where there is only one."""
    if images.labels is None:
        return None
    count = len(images.classes) if images.classes else int(images.labels.max()) + 1
    if count < 2:
        raise UserError(f"{images.path}: its images are all of one class; give two at least.")
    return count


def check_same_classes(train: ImageSet, val: ImageSet, num_classes: int | None) -> None:
    """UserError where the names differ, or a label of ``val`` is none of ``train``."""
    if train.classes and val.classes and train.classes != val.classes:
        missing = [name for name in train.classes if name not in val.classes]
        others = [name for name in val.classes if name not in train.classes]
        differ = [f"lacks {some(missing)}"] if missing else []
        differ += [f"has {some(others)}"] if others else []
        raise UserError(
            f"{val.path}: its classes are not those of {train.path} (it "
            f"{' and '.join(differ) or 'has another order'}); give images of the same classes."
        )
    if num_classes is not None:
        check_labels_below(val, num_classes, "the training set")


def check_labels_below(images: ImageSet, num_classes: int, other: str) -> None:
    """UserError for the first label that ``other``, which has ``num_classes``, does not know."""
    if images.labels is None:
        return
    wrong = np.flatnonzero(images.labels >= num_classes)
    if len(wrong):
        name = images.source.name(int(images.picked[wrong[0]]))
        raise UserError(
            f"{name}: has label {images.labels[wrong[0]]}, and {other} has the classes 0 to "
            f"{num_classes - 1}; give labels of these."
        )


def gaps(images: ImageSet, num_classes: int | None) -> list[str]:
    """A line on classes without an image; empty where all have some."""
    if images.labels is None or num_classes is None:
        return []
    missing = np.setdiff1d(np.arange(num_classes), images.labels)
    return (
        [f"labels: no training image has {some(list(map(str, missing)))}"] if len(missing) else []
    )
