"""train --qat, from a checkpoint to an int8 model in the workspace."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..data.training import TrainingSet
from ..errors import CheckFailed, UserError
from ..files import sha256_file
from ..sidecar import sidecar_path
from ..train.loop import Finished
from ..train.objective import Supervised
from ..train.optimizer import parameter_groups
from ..train.processes import Processes
from ..train.qat.distill import Distillation
from ..train.qat.settings import STATE_KEY, QatSettings
from ..train.resume import damaged, read_saved
from ..train.task import Task
from ..transaction import check_writable, transaction
from ..workspace import ModelFolder, Workspace
from .calibration import pick_training_images
from .fuse import fuse_checkpoint
from .image_size import check_calibration_size
from .quantize import QuantizeResult
from .train import Setup, record_of, training_batches, validation_batches
from .train_network import Start
from .train_qat import Progress, QatRun, export_qat, prepare_qat
from .weights import Reading, WeightsFile


@contextmanager
def temporary_folder(
    start: Start, workspace: Workspace, name: str, processes: Processes
) -> Iterator[ModelFolder]:
    """A temporary model folder with the fused weights of ``start``: those of the model ``name``,
    made where that has none. Nothing in ``workspace`` changes before :func:`finish`.

    Raises:
        UserError: the folder ``name`` holds another model, fused weights that were read from the
            checkpoint in another way or the int8 model of another network, or cannot be written to;
            or the checkpoint cannot be fused.
        CheckFailed: the fused weights are not the network that they were made from.
    """
    weights = start.weights
    claimed = ModelFolder(workspace.root / name)
    processes.first_only(lambda: check_writable(_claim(weights, workspace, name).onnx("int8")))
    with tempfile.TemporaryDirectory(prefix="repvgg-deploy-") as root:
        folder = ModelFolder(Path(root) / name)
        try:
            if claimed.fused.exists():
                folder.path.mkdir()
                for path in (claimed.fused, sidecar_path(claimed.fused)):
                    shutil.copyfile(path, folder.path / path.name)
            else:
                fuse_checkpoint(
                    weights.path,
                    Workspace(Path(root)),
                    reading=weights.reading,
                    name=name,
                    origin=start.origin,
                    prove=processes.rank == 0,
                )
            yield folder
        except (UserError, CheckFailed) as error:
            error.sentence = error.sentence.replace(str(folder.path), str(claimed.path))
            raise


def _claim(weights: WeightsFile, workspace: Workspace, name: str) -> ModelFolder:
    """The folder ``name``, where it can take the int8 model of these weights."""
    if weights.path.resolve() == ModelFolder(workspace.root / name).fused.resolve():
        folder = workspace.model(name)
    else:
        folder = workspace.claim(name, weights.checkpoint.sha256)
        if folder.fused.exists():  # made from this checkpoint, which claim has seen to
            _check_reading(folder, weights)
    folder.claim_int8(folder.fused)
    return folder


def _check_reading(folder: ModelFolder, weights: WeightsFile) -> None:
    """UserError where the fused weights were read from the checkpoint in another way."""
    spec = weights.network.spec
    ours = replace(weights.reading, eps=spec.eps, strides=spec.strides)
    if _effect(Reading.of(folder.read_fused())) != _effect(ours):
        raise UserError(
            f"{folder.fused}: was read from {weights.path} with another --eps, --strides, --family "
            "or choice of its moving average; give --init that file to train it, or another --name."
        )


def _effect(reading: Reading) -> Reading:
    """``ema`` None takes the moving average where there is one, as True does."""
    return replace(reading, ema=reading.ema is not False)


def calibrated(
    folder: ModelFolder,
    data: TrainingSet,
    settings: QatSettings,
    samples: int,
    seed: int,
    progress: Progress,
) -> QatRun:
    """Post-training quantization of the fused weights, on images of the training set, as the
    trainable network that training starts from.

    Raises:
        UserError: the folder holds float models of another image size.
    """
    check_calibration_size(folder, data.train)
    calibration = pick_training_images(data.train, data.val, samples, seed)
    return prepare_qat(folder.fused, calibration, settings, seed, progress)


def int8_task(setup: Setup, run: QatRun, processes: Processes) -> Task:
    """Training towards the labels, or the float network's logits.

    Raises:
        UserError: images or batches that cannot be used.
    """
    network, recipe = run.network, setup.recipe
    validation = validation_batches(setup, processes)
    calibration = {"samples": len(run.calibration.fit)}
    return Task(
        network=network,
        objective=Distillation(run.teacher) if run.settings.distill else Supervised(recipe),
        groups=parameter_groups(network, recipe.weight_decay),
        batches=training_batches(setup, processes),
        validation=None if validation is None else lambda: validation,
        record=record_of(setup, processes, "qat", {**run.settings.to_dict(), **calibration}),
        state_key=STATE_KEY,
    )


def finish(
    run: QatRun,
    done: Finished,
    setup: Setup,
    folder: ModelFolder,
    start: Start,
    workspace: Workspace,
    progress: Progress,
) -> QuantizeResult:
    """Write the int8 model of the best checkpoint, or of the last where none was validated, and the
    fused weights with it, and make that model the current one: all of it together.

    ``folder`` is the temporary one.

    Raises:
        UserError: the checkpoint is missing or damaged, or the model cannot be written.
        CheckFailed: what would be written is not what was trained, or has lost its answers.
    """
    path = done.best_path or done.last
    saved = read_saved(path)
    network = run.network.cpu()
    try:
        network.load_state_dict(saved.get(f"{STATE_KEY}_ema", saved.get(STATE_KEY, {})))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise damaged(path) from error
    training = {
        "command": setup.command,
        "checkpoint": str(path.resolve()),
        "sha256": sha256_file(path),
        "recipe": setup.recipe.to_dict(),
    }
    result = export_qat(run, folder, training, progress)
    target = _claim(start.weights, workspace, folder.name)  # hours have passed
    with transaction(target.path) as change:
        if not target.fused.exists():
            for stale in target.stale_copies(()):
                change.remove(stale)
        for file in sorted(folder.path.iterdir()):
            place = target.path / file.name
            if not place.is_file() or sha256_file(place) != sha256_file(file):
                shutil.copyfile(file, change.place(place))
        workspace.set_current(target, change)
    return replace(result, path=target.onnx("int8"))
