"""train: from images and a network to a run folder that fuse reads."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import torch

from .. import __version__
from ..bench.environment import cpu_name
from ..data.augment.augmentation import Augmentation, default_augmentation
from ..data.loader import TrainingBatches, ValidationBatches
from ..data.preprocessing import Preprocessing
from ..data.training import TrainingSet
from ..errors import UserError
from ..models.network import RepVGG
from ..models.zoo import describe
from ..train.custom_l2 import covered_kernels, custom_l2
from ..train.objective import Supervised
from ..train.optimizer import parameter_groups
from ..train.processes import Processes
from ..train.recipe import Recipe
from ..train.record import Data, Initial, TrainRecord
from ..train.task import Task


@dataclass(frozen=True)
class Setup:
    """What a run starts from. ``initial`` None: fresh weights. ``workers`` load the images."""

    network: RepVGG
    initial: Initial | None
    data: TrainingSet
    augmentation: Augmentation
    recipe: Recipe
    command: str
    workers: int


def pick_augmentation(how: Preprocessing, given: dict[str, Any]) -> Augmentation:
    """What is common for such preprocessing, with the settings that are ``given``.

    Raises:
        UserError: settings that are none.
    """
    try:
        return replace(default_augmentation(how), **given)
    except ValueError as error:
        raise UserError(f"--randaugment: {error}; give 2,9, say.") from error


def supervised_task(setup: Setup, processes: Processes) -> Task:
    """Training on labels.

    Raises:
        UserError: images or batches that cannot be used.
    """
    network, recipe = setup.network, setup.recipe

    def penalty() -> torch.Tensor:
        return 0.5 * recipe.weight_decay * custom_l2(network)

    validation = validation_batches(setup, processes)
    exempt = covered_kernels(network) if recipe.custom_l2 else ()
    return Task(
        network=network,
        objective=Supervised(recipe, penalty if recipe.custom_l2 else None),
        groups=parameter_groups(network, recipe.weight_decay, exempt),
        batches=training_batches(setup, processes),
        validation=None if validation is None else lambda: validation,
        record=record_of(setup, processes, "train"),
    )


def training_batches(setup: Setup, processes: Processes) -> TrainingBatches:
    """This process's part of every batch."""
    return TrainingBatches(
        setup.data.train,
        setup.augmentation,
        batch=setup.recipe.batch,
        seed=setup.recipe.seed,
        rank=processes.rank,
        world=processes.world,
        workers=setup.workers,
    )


def validation_batches(setup: Setup, processes: Processes) -> ValidationBatches | None:
    """This process's part of the images; None where there are none with labels."""
    images = setup.data.val
    if images is None or images.labels is None:
        return None
    size = max(1, setup.recipe.batch // processes.world)
    return ValidationBatches(
        images, size, rank=processes.rank, world=processes.world, workers=setup.workers
    )


def record_of(
    setup: Setup, processes: Processes, kind: str, qat: dict[str, Any] | None = None
) -> TrainRecord:
    """What train.json says, but for what the run itself brings."""
    spec = setup.network.spec
    return TrainRecord(
        kind=kind,
        command=setup.command,
        tool=f"repvgg-deploy {__version__}",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        architecture=describe(spec),
        spec=spec.to_dict(),
        recipe=setup.recipe.to_dict(),
        data=_data(setup, spec.num_classes),
        initial=setup.initial,
        processes=processes.world,
        environment=_environment(processes),
        epochs=[],
        stopped="",
        checkpoints={},
        qat=qat,
    )


def _data(setup: Setup, num_classes: int) -> Data:
    data, val = setup.data, setup.data.val
    return Data(
        path=str(data.train.path.resolve()),
        sha256=data.train.sha256,
        images=len(data.train),
        val_path=None if val is None else str(val.path.resolve()),
        val_sha256=None if val is None else val.sha256,
        val_images=0 if val is None else len(val),
        num_classes=num_classes,
        classes=None if data.classes is None else list(data.classes),
        corrupt=list(data.corrupt),
        preprocessing=data.train.preprocessing.to_dict(),
        augmentation=setup.augmentation.to_dict(),
    )


def _environment(processes: Processes) -> dict[str, Any]:
    on_gpu = processes.device.type == "cuda"
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cpu": cpu_name(),
        "device": str(processes.device),
        "gpu": torch.cuda.get_device_name(processes.device) if on_gpu else None,
        "threads": torch.get_num_threads(),
    }
