"""What a training run says of itself: ``train.json``, all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Epoch:
    """``epoch`` counts from 1, ``step`` is the number of steps done at its end.

    ``loss`` is the mean of the training steps' losses, ``lr`` that of the last. ``val_*`` are of
    the weights, ``ema_*`` of their moving average; top-1 and top-5 in percent; None: not measured.
    """

    epoch: int
    step: int
    lr: float
    loss: float
    val_loss: float | None
    val_top1: float | None
    val_top5: float | None
    ema_loss: float | None
    ema_top1: float | None
    ema_top5: float | None
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Data:
    """``corrupt`` names the images that could not be decoded and were left out."""

    path: str
    sha256: str
    images: int
    val_path: str | None
    val_sha256: str | None
    val_images: int
    num_classes: int
    classes: list[str] | None
    corrupt: list[str]
    preprocessing: dict[str, Any]
    augmentation: dict[str, Any]


@dataclass(frozen=True)
class Initial:
    """A checkpoint that training started from: tensors that were taken, and new ones with why."""

    path: str
    sha256: str
    family: str
    taken: list[str]
    fresh: dict[str, str]


@dataclass(frozen=True)
class TrainRecord:
    """``kind`` is train or qat. ``stopped`` says why a run ended early, empty where it did not.

    ``checkpoints`` maps the files beside this one to their SHA-256. ``qat`` holds what only a run
    of that kind has.
    """

    kind: str
    command: str
    tool: str
    created: str
    architecture: str
    spec: dict[str, Any]
    recipe: dict[str, Any]
    data: Data
    initial: Initial | None
    processes: int
    environment: dict[str, Any]
    epochs: list[Epoch]
    stopped: str
    checkpoints: dict[str, str]
    qat: dict[str, Any] | None = None
    schema: int = field(default=SCHEMA)
