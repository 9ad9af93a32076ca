"""repvgg-deploy evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import data_options, options
from .console import Stopwatch, made, print_json, say, spinner, uninterrupted
from .data_options import PreprocessingOptions
from .subject import refuse_options

if TYPE_CHECKING:
    from ..data.image_set import ImageSet
    from ..models.spec import Strides
    from ..steps.evaluate import Evaluation
    from ..workspace import ModelFolder


@click.command("evaluate")
@click.argument("files", metavar="[ARTIFACT]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Images: a folder (its sub-folders are the classes), IDX files, .npz or .npy.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="A class index for each image: .npy, .npz with an array y, IDX, or text with one a line. "
    "[default: those that --data holds]",
)
@data_options.split
@data_options.preprocessing_options
@click.option(
    "--allow-other-preprocessing",
    is_flag=True,
    help="Evaluate an int8 model on images that are preprocessed otherwise than those it was "
    "calibrated with.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Take this many of the images, spread over the classes. [default: all]",
)
@click.option("--confusion", is_flag=True, help="Count which class was taken for which.")
@options.eps
@options.family
@options.ema
@options.strides
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where weights run; auto: the GPU where torch can use one. ONNX models run on the CPU.",
)
@options.model
@options.engines
@options.as_json
def command(
    files: tuple[Path, ...],
    data: Path,
    labels: Path | None,
    split: str | None,
    preprocessing: PreprocessingOptions,
    allow_other_preprocessing: bool,
    samples: int | None,
    confusion: bool,
    eps: float | None,
    family: str | None,
    ema: bool | None,
    strides: Strides | None,
    device: str,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Measure accuracy, several networks side by side.

    Each ARTIFACT may be a checkpoint, fused weights, an ONNX model or an engine; the first is the
    reference. Without any, everything of the current model is evaluated, and the reference is the
    unfused checkpoint; what cannot be run here is left out, and said so. Prints top-1 and top-5,
    the agreement with the reference, the difference in top-1, each with its 95 % interval, and how
    far the logits are from the reference's (SQNR); of the current model that is left in
    engines/<model>/evaluation.json, for report. Without --preprocess and its like, images are
    preprocessed as those that an int8 model among them was calibrated with, or else as those that
    the network was trained with, where train.json lies beside its checkpoint. Exit code 3 where a
    network gives NaN or infinity.
    """
    _refuse_what_has_no_effect(files)
    with spinner("loading") as elapsed, uninterrupted():
        from ..data.image_set import open_images
        from ..optional import available
        from ..steps.candidates import model_entries, named_entries
        from ..steps.evaluate import default_preprocessing, evaluate
        from ..steps.weights import Reading
        from ..transaction import check_writable
        from ..workspace import Workspace
        from .progress import share_progress

        available("onnxruntime")  # imported now: a signal amid that looks like its absence
    folder = None if files else Workspace(engines).model(model)
    reading = Reading(eps, family, ema, strides)
    entries = named_entries(files, reading) if folder is None else model_entries(folder)
    if folder is not None:
        check_writable(folder.evaluation)  # now, not after the whole set
    images = open_images(data, preprocessing.pick(default_preprocessing(entries)), labels, split)
    if confusion:
        _require_labels(images)
    images = images if samples is None else images.take(samples)
    with share_progress("evaluating") as progress:
        result = evaluate(
            entries, images, device, with_confusion=confusion,
            other_preprocessing=allow_other_preprocessing, progress=progress,
        )  # fmt: skip
    _finish(result, folder, elapsed, confusion)
    if as_json:
        print_json(result.to_dict())
    _require_finite(result)


def _refuse_what_has_no_effect(files: tuple[Path, ...]) -> None:
    if files:
        refuse_options(("model", "engines"), "ARTIFACT is named")
    else:
        asked = ("eps", "family", "ema", "strides")
        refuse_options(asked, "the model's checkpoint is read as fuse read it")


def _finish(
    result: Evaluation, folder: ModelFolder | None, elapsed: Stopwatch, confusion: bool
) -> None:
    """Say what was measured, and keep it in ``folder``, that of the current model."""
    from ..steps.evaluation_record import keep_evaluation

    count = _say_tables(result, confusion)
    if folder is None:
        say(f"{count}  {elapsed}")
    else:
        made(keep_evaluation(result, folder), elapsed, count)


def _require_finite(result: Evaluation) -> None:
    """CheckFailed where a network answered an image with something that is no number."""
    from ..errors import CheckFailed

    failed = [network for network in result.networks if network.scores.not_finite]
    if failed:
        names = ", ".join(str(network.path) for network in failed)
        raise CheckFailed(f"{names}: gave NaN or infinity for images of {result.data}.")


def _require_labels(images: ImageSet) -> None:
    from ..errors import UserError

    if images.labels is None:
        raise UserError(f"{images.path}: has no labels to count --confusion by; give --labels.")


def _say_tables(result: Evaluation, confusion: bool) -> str:
    """The networks side by side, and what each took for what; returns how many on how many."""
    from ..report.evaluate import confusion_text, evaluation_text
    from ..report.text import count_text, one_line

    for line in evaluation_text(result).splitlines():
        say(one_line(line))
    if confusion:
        for network in result.networks:
            say(confusion_text(network, result.classes))
    networks = count_text(len(result.networks), "network")
    return f"{networks} on {count_text(result.samples, 'image')}"
