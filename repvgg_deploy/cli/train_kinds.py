"""The two kinds of training: of a network in float, and of a fused one for int8."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from ..data.loader import check_training
from ..data.training import check_classes
from ..report.quantize import quantize_lines
from ..report.quantize import verdict_text as int8_verdict
from ..report.train import int8_line
from ..steps.train import Setup, supervised_task
from ..steps.train_int8 import calibrated, finish, int8_task, temporary_folder
from ..steps.train_network import (
    check_channels,
    check_structure,
    fresh_network,
    initial,
    started_network,
)
from ..train.qat.settings import QatSettings
from ..train.run_folder import RunFolder
from ..workspace import Workspace
from .console import Stopwatch, made
from .subject import refuse_options
from .train_options import QatOptions
from .train_parts import Asked, augmentation_given, begin, open_data, open_start, train


def train_float(asked: Asked) -> RunFolder:
    """Train or fine-tune, and say what came of it."""
    recipe = asked.recipe.recipe("fresh" if asked.network.init is None else "init")
    checkpoint = open_start(asked)
    folder, processes = begin(asked, recipe, checkpoint)
    data = open_data(asked, recipe, checkpoint)
    classes, channels = data.num_classes, data.train.shape[0]
    assert classes is not None  # labels are needed
    if checkpoint is None:
        network = fresh_network(asked.structure, classes, channels, recipe.seed)
        given = None
    else:
        network, given = started_network(
            checkpoint, asked.structure, classes, channels, recipe.seed
        )
    if not network.spec.aux_stages:
        refuse_options(("aux_weight",), "this architecture has no auxiliary heads")
    augmentation = augmentation_given(asked, data)
    setup = Setup(network, given, data, augmentation, recipe, asked.command, asked.data.workers)
    done = train(asked, setup, supervised_task(setup, processes), folder, processes)
    best = done.best_path or done.last
    line = shlex.join(["repvgg-deploy", "fuse", str(best), "--name", folder.path.resolve().name])
    asked.say([f"next: {line}"])
    return folder


def train_int8(asked: Asked, options: QatOptions) -> RunFolder:
    """Fuse, quantize, train, and write the int8 model."""
    recipe = asked.recipe.recipe("qat")
    checkpoint = open_start(asked)
    assert checkpoint is not None  # --qat needs --init
    weights = checkpoint.weights
    check_structure(weights, asked.structure)
    runs, processes = begin(asked, recipe, checkpoint, "-int8")
    data = open_data(asked, recipe, checkpoint, labels_needed=not options.distill)
    check_channels(weights, data.train.shape[0])
    check_classes(data, weights.network.spec.num_classes)
    augmentation = augmentation_given(asked, data)
    check_training(data.train, augmentation, recipe.batch, processes.world)
    settings = _settings(options)
    elapsed = Stopwatch()
    name, workspace = options.name or runs.path.resolve().name, Workspace(options.engines)
    with temporary_folder(checkpoint, workspace, name, processes) as folder:
        with asked.progress("quantizing, to start from") as share:
            run = calibrated(
                folder, data, settings, options.samples, recipe.seed, _shares_of(share)
            )
        given = initial(checkpoint, list(weights.network.state), {})
        setup = Setup(
            run.network, given, data, augmentation, recipe, asked.command, asked.data.workers
        )
        done = train(asked, setup, int8_task(setup, run, processes), runs, processes)
        if not asked.first:
            return runs
        with asked.progress("writing the int8 model") as share:
            result = finish(run, done, setup, folder, checkpoint, workspace, _shares_of(share))
    asked.say([*quantize_lines(result), int8_line(run.before, result.quality)])
    made(result.path, elapsed, int8_verdict(result))
    return runs


def _shares_of(share: Callable[[float], None]) -> Callable[[str, float], None]:
    """For those that name what the share is of too."""
    return lambda _what, part: share(part)


def _settings(options: QatOptions) -> QatSettings:
    return QatSettings(
        start=options.start,
        float_type=options.float_type,
        stem=not options.no_stem,
        linear=options.linear,
        reinsert_bn=options.reinsert_bn,
        distill=options.distill,
        scales=options.scales,
    )
