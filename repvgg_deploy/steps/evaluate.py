"""evaluate: how many labelled images each network gets right, all in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.image_set import BATCH, ImageSet
from ..data.preprocessing import Preprocessing
from ..data.recorded import recorded_preprocessing
from ..engine.engine_file import is_engine
from ..errors import UserError
from ..evaluation.tally import Scores, Tally
from ..files import sha256_file
from ..runners.torch_network import no_tf32, pick_device
from .candidates import Candidate, Entry, load_candidate
from .training_record import trained_preprocessing


@dataclass(frozen=True)
class Evaluated:
    """One network; ``runtime`` says what ran it. ``sha256`` is of the file, None where there is
    none at ``path``: on a model hub."""

    name: str
    path: Path
    sha256: str | None
    runtime: str
    scores: Scores


@dataclass(frozen=True)
class Evaluation:
    """Networks side by side; the first is the reference. ``left_out`` maps names to the reason.

    ``classes`` are names, None where the images do not say them.
    """

    data: Path
    sha256: str
    samples: int
    labelled: bool
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    networks: list[Evaluated]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "reference": self.networks[0].name}


def default_preprocessing(entries: Sequence[Entry]) -> Preprocessing | None:
    """What the first int8 model was calibrated with that says so, or a network was trained with;
    None: none does."""
    recorded = (
        find(entry.path)
        for find in (recorded_preprocessing, trained_preprocessing)
        for entry in entries
    )
    return next((found for found in recorded if found is not None), None)


def evaluate(
    entries: Sequence[Entry],
    images: ImageSet,
    device: str = "auto",
    *,
    with_confusion: bool = False,
    other_preprocessing: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Run every network on every image; ``progress`` is told the share that is done.

    An engine that this machine cannot run is left out, and of a model's folder whatever cannot be
    run. ``other_preprocessing``: a network may have been calibrated with another one.

    Raises:
        UserError: a network that was asked for cannot be run on these images, or none can; other
            preprocessing than an int8 model was calibrated with; or labels that are not of the
            networks' classes.
    """
    target = pick_device(device)
    if not other_preprocessing:
        for entry in entries:
            _check_preprocessing(entry, images)
    with ExitStack() as stack:
        candidates, left_out = _load(entries, images, target, stack)
        stack.enter_context(no_tf32())
        tallies = _count(candidates, images, with_confusion, progress)
    networks = [
        Evaluated(one.name, one.path, sha256, one.how, tally.scores())
        for one, tally in zip(candidates, tallies, strict=True)
        for sha256 in [sha256_file(one.path) if one.path.is_file() else None]
    ]
    return Evaluation(
        data=images.path,
        sha256=images.sha256,
        samples=len(images),
        labelled=images.labels is not None,
        preprocessing=images.preprocessing,
        classes=images.classes,
        networks=networks,
        left_out=left_out,
    )


def _check_preprocessing(entry: Entry, images: ImageSet) -> None:
    recorded = recorded_preprocessing(entry.path)
    if recorded is not None and (differs := recorded.differences(images.preprocessing)):
        raise UserError(
            f"{entry.path}: was calibrated with other preprocessing than asked for here "
            f"({'; '.join(differs)}); leave the options out to take its own, or allow it with "
            "--allow-other-preprocessing."
        )


def _load(
    entries: Sequence[Entry], images: ImageSet, device: torch.device, stack: ExitStack
) -> tuple[list[Candidate], dict[str, str]]:
    """What can be run on the images, and the rest with the reasons."""
    candidates: list[Candidate] = []
    left_out: dict[str, str] = {}
    for entry in entries:
        try:
            candidate = load_candidate(entry, device, stack)
            _check_images(candidate, images)
        except UserError as error:
            if entry.asked and not (is_engine(entry.path) and candidates):
                raise
            left_out[entry.name] = str(error)
            continue
        candidates.append(candidate)
    if not candidates:
        reasons = " ".join(left_out.values())
        raise UserError(f"{entries[0].path.parent}: nothing there can be evaluated: {reasons}")
    return candidates, left_out


def _check_images(candidate: Candidate, images: ImageSet) -> None:
    takes = zip(candidate.takes, images.shape, strict=True)
    if any(wanted not in (None, has) for wanted, has in takes):
        raise UserError(
            f"{candidate.path}: takes images of {_shape(candidate.takes)}, and after preprocessing "
            f"those of {images.path} are {_shape(images.shape)}; change the preprocessing, or "
            "export the model for this size."
        )


def _shape(sides: Sequence[int | None]) -> str:
    """``3 channels, 224x224 pixels``"""
    channels, height, width = sides
    pixels = "any size" if height is None or width is None else f"{height}x{width} pixels"
    return f"{channels} channels, {pixels}"


def _count(
    candidates: Sequence[Candidate],
    images: ImageSet,
    with_confusion: bool,
    progress: Callable[[float], None],
) -> list[Tally]:
    tallies: list[Tally] = []
    done = 0
    at_once = max(BATCH, *(candidate.least for candidate in candidates))
    for batch in images.batches(at_once):
        logits = [candidate.answer(batch) for candidate in candidates]
        if not tallies:
            classes = [found.shape[1] for found in logits]
            _check_classes(candidates, classes, images)
            labelled = images.labels is not None
            tallies = [Tally(number, labelled, with_confusion) for number in classes]
        labels = None if images.labels is None else images.labels[done : done + len(batch)]
        for tally, found in zip(tallies, logits, strict=True):
            tally.add(found, logits[0], labels)
        done += len(batch)
        progress(done / len(images))
    return tallies


def _check_classes(candidates: Sequence[Candidate], classes: list[int], images: ImageSet) -> None:
    first = candidates[0]
    for candidate, number in zip(candidates, classes, strict=True):
        if number != classes[0]:
            raise UserError(
                f"{candidate.path}: has {number} classes and {first.path} {classes[0]}; evaluate "
                "networks of one task."
            )
    if images.classes is not None and len(images.classes) != classes[0]:
        raise UserError(
            f"{images.path}: has {len(images.classes)} named classes, and "
            f"{first.path} has {classes[0]} classes; give the right labels with --labels."
        )
    if images.labels is not None and images.labels.max() >= classes[0]:
        raise UserError(
            f"{images.path}: holds the label {images.labels.max()}, and {first.path} has only the "
            f"classes 0 to {classes[0] - 1}; give the labels that it was trained with."
        )
