"""What train does, with the lines that it says."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.training import TrainingSet, check_classes, open_training
from ..errors import UserError
from ..models.zoo import variant_name
from ..report.quantize import quantize_lines
from ..report.quantize import verdict_text as int8_verdict
from ..report.train import int8_line, start_lines, verdict_text
from ..steps.train import Setup, pick_augmentation, supervised_task
from ..steps.train_int8 import calibrated, finish, fused_folder, int8_task
from ..steps.train_network import (
    Start,
    Structure,
    check_channels,
    check_structure,
    fresh_network,
    initial,
    started_network,
)
from ..steps.training_record import trained_preprocessing
from ..steps.weights import Reading, read_weights
from ..train.loop import Finished, run_training
from ..train.observer import Observer, Silent
from ..train.processes import Launch, Processes, start
from ..train.qat.settings import QatSettings
from ..train.record import Initial
from ..train.run_folder import RunFolder
from ..train.task import Task
from ..workspace import Workspace
from .console import Stopwatch, made, say
from .data_options import PreprocessingOptions
from .progress import share_progress
from .subject import take
from .train_options import (
    AugmentOptions,
    DataOptions,
    NetworkOptions,
    QatOptions,
    RecipeOptions,
    RunOptions,
)
from .train_progress import training_display


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
        return Structure(network.arch, network.widths, network.block)
