"""A data set to train on: its images, those to validate on, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .classes import (
    check_labels_below,
    check_no_empty_class,
    check_same_classes,
    count_classes,
    gaps,
    some,
)
from .hold_out import hold_back
from .image_set import ImageSet, open_images
from .parts import Part, Parts, find_parts, find_val
from .preprocessing import PRESETS, Preprocessing
from .scan import Scan, scan

#: What images are preprocessed by where nothing is said, by the kind of data set.
_DEFAULTS = {
    "idx": ("fashion-mnist-32", "IDX files"),
    "cifar-10": ("cifar-10", "CIFAR-10"),
    "folder": ("imagenet", "folders of images"),
}


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """``val`` None: nothing to validate on. ``num_classes`` None: no labels; ``classes`` are their
    names where the data has them.

    ``corrupt`` are the files of both sets that are left out, of ``checked``; ``notes`` are lines
    that say what was chosen.
    """

    train: ImageSet
    val: ImageSet | None
    num_classes: int | None
    classes: tuple[str, ...] | None
    corrupt: tuple[str, ...]
    checked: int
    notes: tuple[str, ...]


def _silent(share: float) -> None:
    """No progress display."""


def open_training(
    path: Path,
    preprocessing: Preprocessing | None = None,
    *,
    val: Path | None = None,
    hold_out: float = 0.0,
    seed: int = 0,
    max_corrupt: float = 0.01,
    workers: int = 1,
    labels_needed: bool = True,
    progress: Callable[[float], None] = _silent,
) -> TrainingSet:
    """A folder of classes, or of train/ and val/ with classes each; IDX files, CIFAR-10, .npz.

    To validate on are the images of ``val``, or a share ``hold_out`` of the training images, or
    else those that the data set has for it, if any. Every file is decoded once, by ``workers``
    threads; of each set a share ``max_corrupt`` (one at least; none at 0) may fail and is left out.

    Raises:
        UserError: data that cannot be trained on; says which and why.
    """
    parts = find_parts(path)
    how, chosen = _preprocessing(parts, preprocessing)
    part = _val_part(parts, val, hold_out)
    found = scan(_open(parts.train, how, labels_needed), max_corrupt, max(1, workers), progress)
    classes = count_classes(found.images)
    train, scans = found.images, [found]
    held = None
    if part is not None:
        scans.append(scan(_open(part, train.preprocessing), max_corrupt, max(1, workers), progress))
        held = scans[1].images
        check_same_classes(train, held, classes)
    elif hold_out:
        train, held = hold_back(train, hold_out, seed)
    corrupt = tuple(name for one in scans for name in one.corrupt)
    notes = [
        f"training: {_count(train)} of {parts.train}",
        f"validation: {_validation(parts, part, held, hold_out)}",
        *chosen,
        *gaps(found.images, classes),
        *_left_out(scans),
    ]
    return TrainingSet(
        train, held, classes, train.classes, corrupt, sum(s.checked for s in scans),
        tuple(notes),
    )  # fmt: skip


def check_classes(data: TrainingSet, num_classes: int) -> None:
    """UserError where the labels are not those of a network of so many classes."""
    if data.classes is not None and len(data.classes) != num_classes:
        raise UserError(
            f"{data.train.path}: has {len(data.classes)} classes and the network {num_classes}; "
            "give images of the network's classes, or train it with a new head."
        )
    for images in (data.train, data.val):
        if images is not None:
            check_labels_below(images, num_classes, "the network")


def _preprocessing(
    parts: Parts, given: Preprocessing | None
) -> tuple[Preprocessing | None, list[str]]:
    if given is not None or parts.kind == "array":
        return given, []
    name, kind = _DEFAULTS[parts.kind]
    how = PRESETS[name]
    return how, [f"preprocessing: {name}, as nothing else is said for {kind} ({how})"]


def _val_part(parts: Parts, val: Path | None, hold_out: float) -> Part | None:
    if not 0 <= hold_out < 1:
        raise UserError(f"--hold-out {hold_out:g}: is no share of the images; give 0.1, say.")
    if val is None:
        return None if hold_out else parts.val
    if hold_out:
        raise UserError("--hold-out: is not for --val, which names the images; leave one out.")
    part = find_val(val)
    if (part.path.resolve(), part.split) == (parts.train.path.resolve(), parts.train.split):
        raise UserError(f"--val {val}: these are the training images; name others.")
    return part


def _open(part: Part, how: Preprocessing | None, labels_needed: bool = True) -> ImageSet:
    images = open_images(part.path, how, split=part.split)
    if images.labels is None:
        if labels_needed:
            raise UserError(
                f"{part.path}: its images have no labels; give a folder with a folder of images "
                "for each class, IDX files with their labels file, or a .npz file with x and y."
            )
        return images
    check_no_empty_class(images)
    return images


def _count(images: ImageSet) -> str:
    return "1 image" if len(images) == 1 else f"{len(images)} images"


def _validation(parts: Parts, part: Part | None, held: ImageSet | None, hold_out: float) -> str:
    if held is None:
        return f"none: {parts.train.path} has no part for it; give --val, or --hold-out 0.1"
    if part is not None:
        return f"{_count(held)} of {part}"
    unused = "" if parts.val is None else f"; {parts.val} is left alone"
    return f"{_count(held)}, {hold_out:g} of the training images{unused}"


def _left_out(scans: list[Scan]) -> list[str]:
    return [
        f"corrupt: {len(one.corrupt)} of {one.checked} images of {one.images.path} cannot be "
        f"decoded and are left out ({some(one.corrupt)})"
        for one in scans
        if one.corrupt
    ]
