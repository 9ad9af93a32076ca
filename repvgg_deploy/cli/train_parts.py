"""What train does, with the lines that it says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..data.augment.augmentation import Augmentation
from ..data.training import TrainingSet, open_training
from ..models.zoo import variant_name
from ..report.text import count_text
from ..report.train import start_lines, verdict_text
from ..steps.train import Setup, pick_augmentation
from ..steps.train_network import Start, Structure
from ..steps.training_record import trained_preprocessing
from ..steps.weights import Reading, read_weights
from ..train.loop import Finished, check_recipe, run_training
from ..train.observer import Observer, Silent
from ..train.processes import Launch, Processes, start
from ..train.recipe import Recipe
from ..train.run_folder import RunFolder
from ..train.task import Task
from ..transaction import check_writable
from .console import Stopwatch, made, say
from .data_options import PreprocessingOptions
from .progress import share_progress
from .subject import take
from .train_data_options import AugmentOptions, DataOptions
from .train_options import NetworkOptions, RunOptions
from .train_progress import training_display
from .train_recipe_options import RecipeOptions

ShareProgress = AbstractContextManager[Callable[[float], None]]


@dataclass(frozen=True)
class Asked:
    """The options of both kinds of training; ``first``: this process speaks for all."""

    network: NetworkOptions
    data: DataOptions
    preprocessing: PreprocessingOptions
    augment: AugmentOptions
    recipe: RecipeOptions
    run: RunOptions
    command: str
    first: bool

    @property
    def structure(self) -> Structure:
        network = self.network
        return Structure(network.arch, network.widths, network.block, network.strides)

    def say(self, lines: list[str]) -> None:
        for line in lines if self.first else ():
            say(line)

    def progress(self, text: str) -> ShareProgress:
        return share_progress(text) if self.first else nullcontext(_no_progress)


def _no_progress(share: float) -> None:
    """The first process shows it."""


def open_start(asked: Asked) -> Start | None:
    """What --init names; None where it is not given."""
    network = asked.network
    if network.init is None:
        return None
    taken = take(network.init)
    reading = Reading(None, network.family, network.ema_of_init, network.strides)
    weights = read_weights(taken.path, reading)
    return Start(weights, taken.origin, network.keep_head)


def begin(
    asked: Asked, recipe: Recipe, checkpoint: Start | None, suffix: str = ""
) -> tuple[RunFolder, Processes]:
    """The run's folder, which holds no run unless that is resumed, and its processes.

    What can be refused is refused here, before all images are decoded.
    """
    folder = RunFolder(asked.run.out or Path("runs") / f"{_name(asked, checkpoint)}{suffix}")
    if asked.first:
        check = folder.check_there if asked.run.resume else folder.check_free
        check()
        check_writable(folder.record)
    processes = start(Launch(asked.run.device, asked.run.devices), recipe.precision)
    check_recipe(recipe, processes.world)
    return folder, processes


def _name(asked: Asked, checkpoint: Start | None) -> str:
    if checkpoint is None:
        assert asked.network.arch is not None
        return asked.network.arch
    return variant_name(checkpoint.weights.network.spec) or checkpoint.weights.path.stem


def open_data(
    asked: Asked, recipe: Recipe, checkpoint: Start | None, *, labels_needed: bool = True
) -> TrainingSet:
    """Preprocessed as is asked for, else as --init was trained with, else as is usual."""
    data = asked.data
    recorded = None if checkpoint is None else trained_preprocessing(checkpoint.weights.path)
    with asked.progress("looking at the images") as progress:
        return open_training(
            data.data,
            asked.preprocessing.pick(recorded),
            val=data.val,
            hold_out=data.hold_out,
            seed=recipe.seed,
            max_corrupt=data.max_corrupt,
            workers=data.workers,
            labels_needed=labels_needed,
            progress=progress,
        )


def train(
    asked: Asked,
    setup: Setup,
    task: Task,
    folder: RunFolder,
    processes: Processes,
) -> Finished:
    """Say what is to come, train, and say what came of it."""
    asked.say(start_lines(setup, processes))
    elapsed = Stopwatch()
    with _display(asked, setup.recipe.epochs) as observer:
        done = run_training(task, setup.recipe, folder, processes, observer, asked.run.resume)
    if asked.first:
        made(done.last, elapsed, count_text(len(done.epochs), "epoch"))
        if done.best_path is not None:
            made(done.best_path, elapsed, verdict_text(done.epochs, done.best))
    return done


def _display(asked: Asked, epochs: int) -> AbstractContextManager[Observer]:
    return training_display(epochs) if asked.first else nullcontext(Silent())


def augmentation_given(asked: Asked, data: TrainingSet) -> Augmentation:
    """What is common for such images, with what the options say."""
    augment = asked.augment
    given = {
        "flip": augment.flip,
        "crop": augment.random_crop,
        "randaugment": augment.randaugment,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return pick_augmentation(data.train.preprocessing, chosen)
