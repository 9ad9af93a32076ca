"""repvgg-deploy train"""

from __future__ import annotations

import shlex
import sys

import click

from . import data_options, options
from .console import print_json, say, uninterrupted
from .data_options import PreprocessingOptions
from .groups import SectionedCommand
from .subject import refuse_options
from .train_data_options import AugmentOptions, DataOptions
from .train_options import (
    QAT,
    SECTIONS,
    NetworkOptions,
    QatOptions,
    RunOptions,
    augment_options,
    dataset_options,
    network_options,
    qat_options,
    recipe_options,
    run_options,
)
from .train_recipe_options import RecipeOptions


@click.command("train", cls=SectionedCommand, sections=SECTIONS)
@network_options
@dataset_options
@data_options.preprocessing_options
@augment_options
@recipe_options
@run_options
@click.option(
    "--qat",
    is_flag=True,
    help="Fuse --init, quantize it, and train what int8 has left of it; writes the int8 model "
    "into the workspace, as quantize does.",
)
@qat_options
@options.as_json
def command(
    network: NetworkOptions,
    data: DataOptions,
    preprocessing: PreprocessingOptions,
    augment: AugmentOptions,
    recipe: RecipeOptions,
    run: RunOptions,
    qat: bool,
    int8: QatOptions,
    as_json: bool,
) -> None:
    """Train a RepVGG, fine-tune one, or train one for int8.

    \b
    repvgg-deploy train --arch RepVGG-A0 --data photos --epochs 120
    repvgg-deploy train --init ckpt.pth --data photos --epochs 20
    repvgg-deploy train --qat --init runs/x/best.pth --data photos --epochs 5

    Writes a folder with last.pth after every epoch, best.pth, steps.csv (a line a step) and
    train.json (settings, data, learning curve), and the report of what is made from it shows that.
    The checkpoints have the official key names, for fuse. Ctrl-C keeps the run at its step, and the
    same command with --resume ends as if nothing had happened (docs/training.md). Exit code 3 where
    the loss is not finite, or an int8 model is not what was trained.
    """
    _refuse_what_has_no_effect(network, qat, int8)
    with uninterrupted():
        from ..train.interruption import Stopped
        from ..train.processes import launched_rank
        from ..train.read import read_training
        from .train_kinds import train_float, train_int8
        from .train_parts import Asked

    line = shlex.join(["repvgg-deploy", *sys.argv[1:]])
    asked = Asked(network, data, preprocessing, augment, recipe, run, line, launched_rank() == 0)
    try:
        folder = train_int8(asked, int8) if qat else train_float(asked)
    except Stopped as stop:
        if asked.first:
            say(f"stopped at step {stop.step}; go on with the same command and --resume")
        sys.exit(1)
    if as_json and asked.first:
        print_json(read_training(folder.record))


def _refuse_what_has_no_effect(network: NetworkOptions, qat: bool, int8: QatOptions) -> None:
    if network.init is None:
        if qat:
            raise click.UsageError("--qat needs --init, the checkpoint to be trained for int8.")
        if network.arch is None:
            raise click.UsageError("Name what to train: --arch, or a checkpoint with --init.")
        refuse_options(("keep_head", "family", "ema_of_init"), "it is for --init")
    if not qat:
        refuse_options(tuple(QAT), "it is for --qat")
        return
    fused = ("keep_head", "custom_l2", "recompute", "aux_weight")
    refuse_options(fused, "--qat trains the fused network, with the classifier that it has")
    if int8.distill:
        aim = "--distill aims at the float network's answers, not at labels"
        refuse_options(("label_smoothing", "mixup"), aim)
