"""A tiny training task that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.train.batch import Batch
from repvgg_deploy.train.loop import Finished, run_training
from repvgg_deploy.train.objective import Supervised
from repvgg_deploy.train.observer import Silent
from repvgg_deploy.train.optimizer import parameter_groups
from repvgg_deploy.train.processes import Launch, Processes, start
from repvgg_deploy.train.recipe import Recipe
from repvgg_deploy.train.record import Data, TrainRecord
from repvgg_deploy.train.run_folder import RunFolder
from repvgg_deploy.train.task import Task

from .helpers import tiny_spec

#: In pixels; one less and the last block's input is a single pixel.
SIZE = 17
IMAGES, CLASSES = 24, 5
RECIPE = Recipe(epochs=3, batch=8, lr=0.05)


class TinyBatches:
    """Images that tell their class by their brightness, in an order of its own every epoch."""

    def __init__(
        self, recipe: Recipe, rank: int = 0, world: int = 1, dtype: torch.dtype = torch.float32
    ) -> None:
        self.recipe, self.rank, self.world = recipe, rank, world
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.arange(IMAGES) % CLASSES
        noise = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
        self.images = (noise + self.labels[:, None, None, None] - 2).to(dtype)

    def __len__(self) -> int:
        return IMAGES // self.recipe.batch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(epoch))
        for whole in order.split(self.recipe.batch)[first : len(self)]:
            yield self.part(whole)

    def all(self) -> Iterator[Batch]:
        for whole in torch.arange(IMAGES).split(7 * self.world):
            yield self.part(whole)

    def part(self, whole: Tensor) -> Batch:
        mine = whole.tensor_split(self.world)[self.rank]
        return Batch(self.images[mine], self.labels[mine])


def record(spec: ArchSpec, recipe: Recipe, **changes: Any) -> TrainRecord:
    data = Data(
        path="/data", sha256="a" * 64, images=IMAGES, val_path=None, val_sha256=None,
        val_images=IMAGES, num_classes=CLASSES, classes=None, corrupt=[], preprocessing={},
        augmentation={},
    )  # fmt: skip
    values: dict[str, Any] = {
        "kind": "train", "command": "repvgg-deploy train", "tool": "repvgg-deploy", "created": "",
        "architecture": "tiny", "spec": spec.to_dict(), "recipe": recipe.to_dict(), "data": data,
        "initial": None, "processes": 1, "environment": {}, "epochs": [], "stopped": "",
        "checkpoints": {}, **changes,
    }  # fmt: skip
    return TrainRecord(**values)


def processes(recipe: Recipe = RECIPE) -> Processes:
    return start(Launch("cpu"), recipe.precision)


def make_task(
    recipe: Recipe,
    spec: ArchSpec | None = None,
    among: Processes | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Task:
    spec = spec or tiny_spec()
    torch.manual_seed(recipe.seed)
    network = RepVGG(spec, "train").to(dtype)
    rank, world = (among.rank, among.world) if among else (0, 1)
    batches = TinyBatches(recipe, rank, world, dtype)
    values: dict[str, Any] = {
        "network": network, "objective": Supervised(recipe),
        "groups": parameter_groups(network, recipe.weight_decay),
        "batches": batches, "validation": batches.all, "record": record(spec, recipe), **changes,
    }  # fmt: skip
    return Task(**values)


def train(
    folder: Path,
    recipe: Recipe = RECIPE,
    resume: bool = False,
    observer: Any = None,
    **changes: Any,
) -> Finished:
    """Train the tiny task into ``folder``, in this process."""
    return run_training(
        make_task(recipe, **changes), recipe, RunFolder(folder), processes(recipe),
        observer or Silent(), resume,
    )  # fmt: skip
