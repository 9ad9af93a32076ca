"""A step of our training against the plain PyTorch loop's, on images that are there already.

python -m tests.benchmarks.training_loop prints JSON: full RepVGG-A0 on the GPU where there is one,
with every precision; a slim A0 in fp32 on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch.nn import functional

from repvgg_deploy.bench.environment import environment
from repvgg_deploy.bench.measure import Step, measure
from repvgg_deploy.bench.stats import speedup, summarize
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.models.zoo import ZOO, describe, make_spec
from repvgg_deploy.sidecar import to_json
from repvgg_deploy.train.batch import Batch
from repvgg_deploy.train.initial import new_network
from repvgg_deploy.train.objective import Supervised
from repvgg_deploy.train.optimizer import parameter_groups
from repvgg_deploy.train.processes import Launch, start
from repvgg_deploy.train.recipe import Precision, Recipe
from repvgg_deploy.train.record import Data, TrainRecord
from repvgg_deploy.train.state import State
from repvgg_deploy.train.task import Task

from .training.pipeline import SLIM_WIDTHS

PLAIN, OURS = "plain PyTorch loop", "repvgg-deploy train"
CLASSES = 10


class Repeated:
    """One batch, time and again."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        yield self.batch


def plain_loop(spec: ArchSpec, recipe: Recipe, batch: Batch) -> Step:
    """As tutorials write it: autocast, GradScaler for fp16, SGD, one parameter group."""
    device = batch.images.device
    network = new_network(spec, 0).to(device, memory_format=_layout(recipe))
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    assert batch.labels is not None
    images, labels = batch.images.contiguous(memory_format=_layout(recipe)), batch.labels

    def once() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        _wait(device)

    return once


def our_loop(spec: ArchSpec, recipe: Recipe, batch: Batch) -> Step:
    """What the command does in a step."""
    network = new_network(spec, 0)
    device = batch.images.device
    processes = start(Launch("cuda" if device.type == "cuda" else "cpu"), recipe.precision)
    groups = parameter_groups(network, recipe.weight_decay)
    task = Task(network, Supervised(recipe), groups, Repeated(batch), None, _record(spec, recipe))
    state = State(task, recipe, processes)
    state.network.train()

    def once() -> None:
        state.advance(batch, 0, recipe.lr)
        _wait(device)

    return once


def race(
    spec: ArchSpec, recipe: Recipe, size: int, device: torch.device, duration: float
) -> dict[str, Any]:
    """Milliseconds a step of each, and how many times faster ours is, with its interval."""
    images = torch.randn(recipe.batch, spec.in_channels, size, size, device=device)
    labels = torch.randint(spec.num_classes, (recipe.batch,), device=device)
    batch = Batch(images, labels)
    steps = {PLAIN: plain_loop(spec, recipe, batch), OURS: our_loop(spec, recipe, batch)}
    seconds = measure(steps, duration).seconds
    medians = {label: summarize(times).median for label, times in seconds.items()}
    return {
        "network": describe(spec),
        "device": str(device),
        "precision": recipe.precision,
        "channels_last": recipe.channels_last,
        "shape": list(images.shape),
        "samples": len(seconds[OURS]),
        "median_ms": {label: value * 1e3 for label, value in medians.items()},
        "images_per_second": {label: recipe.batch / value for label, value in medians.items()},
        "ours_is_faster_by": asdict(speedup(seconds[PLAIN], seconds[OURS])),
    }


def races(device: torch.device, duration: float) -> list[dict[str, Any]]:
    """On a GPU full A0 at CIFAR's size and at ImageNet's; on a CPU a slim one."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    if device.type == "cpu":
        spec = make_spec(ZOO["RepVGG-A0"].depths, SLIM_WIDTHS, num_classes=CLASSES)
        return [race(spec, Recipe(1, batch=64), 32, device, duration)]
    spec = ZOO["RepVGG-A0"].spec(num_classes=CLASSES)
    return [
        race(spec, Recipe(1, batch, precision=each, channels_last=True), size, device, duration)
        for size, batch in ((32, 1024), (224, 256))
        for each in precisions
    ]


def _layout(recipe: Recipe) -> torch.memory_format:
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _record(spec: ArchSpec, recipe: Recipe) -> TrainRecord:
    data = Data("", "", 0, None, None, 0, spec.num_classes, None, [], {}, {})
    return TrainRecord(
        kind="train", command="", tool="", created="", architecture="", spec=spec.to_dict(),
        recipe=recipe.to_dict(), data=data, initial=None, processes=1, environment={}, epochs=[],
        stopped="", checkpoints={},
    )  # fmt: skip


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    command = " ".join(["python -m tests.benchmarks.training_loop", *sys.argv[1:]])
    found = {"command": command, "environment": environment(torch.get_num_threads())}
    print(to_json({**found, "races": races(device, 30.0)}))


if __name__ == "__main__":
    main()
