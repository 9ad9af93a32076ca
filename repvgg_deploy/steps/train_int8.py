"""train --qat, from a checkpoint to an int8 model in the workspace."""

from __future__ import annotations

import torch

from ..data.training import TrainingSet
from ..files import sha256_file
from ..train.loop import Finished
from ..train.objective import Supervised
from ..train.optimizer import parameter_groups
from ..train.processes import Processes
from ..train.qat.distill import Distillation
from ..train.qat.settings import STATE_KEY, QatSettings
from ..train.task import Task
from ..workspace import ModelFolder, Workspace
from .calibration import pick_training_images
from .fuse import fuse_checkpoint
from .quantize import QuantizeResult
from .train import Setup, record_of, training_batches, validation_batches
from .train_network import Start
from .train_qat import Progress, QatRun, export_qat, prepare_qat


def fused_folder(
    start: Start, workspace: Workspace, name: str, processes: Processes
) -> ModelFolder:
    """The model's folder with the fused weights of ``start``, which are made where they are not
    there already.

    Raises:
        UserError: the folder holds another model, or the checkpoint cannot be fused.
        CheckFailed: the fused weights are not the network that they were made from.
    """
    weights = start.weights
    if weights.path.resolve() == ModelFolder(workspace.root / name).fused.resolve():
        return workspace.model(name)
    folder = workspace.claim(name, weights.checkpoint.sha256)

    def fuse() -> None:
        if folder.fused.exists():  # made from these weights, which claim has seen to
            folder.read_fused()
            workspace.set_current(folder)
            return
        fuse_checkpoint(
            weights.path, workspace, reading=weights.reading, name=name, origin=start.origin
        )

    processes.first_only(fuse)
    return folder


def calibrated(
    folder: ModelFolder,
    data: TrainingSet,
    settings: QatSettings,
    samples: int,
    seed: int,
    progress: Progress,
) -> QatRun:
    """Post-training quantization of the fused weights, on images of the training set, as the
    trainable network that training starts from."""
    calibration = pick_training_images(data.train, data.val, samples, seed)
    return prepare_qat(folder.fused, calibration, settings, seed, progress)


def int8_task(setup: Setup, run: QatRun, processes: Processes) -> Task:
    """Training towards the labels, or the float network's logits.

    Raises:
        UserError: images or batches that cannot be used.
    """
    network, recipe = run.network, setup.recipe
    validation = validation_batches(setup, processes)
    return Task(
        network=network,
        objective=Distillation(run.teacher) if run.settings.distill else Supervised(recipe),
        groups=parameter_groups(network, recipe.weight_decay),
        batches=training_batches(setup, processes),
        validation=None if validation is None else lambda: validation,
        record=record_of(setup, processes, "qat", run.settings.to_dict()),
        state_key=STATE_KEY,
    )


def finish(
    run: QatRun, done: Finished, setup: Setup, folder: ModelFolder, progress: Progress
) -> QuantizeResult:
    """Write the int8 model of the best checkpoint, or of the last where none was validated.

    Raises:
        UserError: it cannot be written.
        CheckFailed: what would be written is not what was trained, or has lost its answers.
    """
    path = done.best_path or done.last
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get(f"{STATE_KEY}_ema", content[STATE_KEY])
    network = run.network.cpu()
    network.load_state_dict(state)
    network.eval()
    training = {
        "command": setup.command,
        "checkpoint": str(path.resolve()),
        "sha256": sha256_file(path),
        "recipe": setup.recipe.to_dict(),
    }
    return export_qat(run, folder, training, progress)
