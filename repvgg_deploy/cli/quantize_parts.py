"""What quantize does, with the lines that it says; export --calib does it too."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .console import Stopwatch, made, say, spinner, uninterrupted
from .data_options import PreprocessingOptions

if TYPE_CHECKING:
    from ..equivalence.truth_file import Truth
    from ..steps.calibration import Calibration
    from ..steps.quantize import QuantizeResult
    from ..steps.quantize_options import QuantizeOptions
    from ..workspace import ModelFolder

#: The names of quantize's recipes, which --help must not import.
METHODS = ("minmax", "percentile", "kl", "mse", "equalize", "quick", "thorough")
#: Images to calibrate with, unless another number is asked for.
SAMPLES = 512


def open_calibration(
    path: Path,
    preprocessing: PreprocessingOptions,
    split: str | None,
    samples: int,
    seed: int,
    source: Path,
) -> Calibration:
    """The images to calibrate with and those to measure on, checked against the network."""
    with spinner("looking at the images"):
        with uninterrupted():
            from ..data.calibration import check_calibration
            from ..data.image_set import open_images
            from ..report.text import count_text
            from ..steps.calibration import pick_images
            from ..steps.quantize_source import read_input
            from ..steps.training_record import trained_preprocessing

        chosen = preprocessing.pick(trained_preprocessing(source))
        images = open_images(path, chosen, split=split)
        calibration = pick_images(images, samples, split, seed)
        warnings = check_calibration(calibration.fit, read_input(source).channels)
    for warning in warnings:
        say(f"note: {warning}")
    found = calibration.fit
    measured = (
        f"{len(calibration.measured)} others to measure on"
        if calibration.held_out
        else "measured on the same, since there are no others: expect a little less elsewhere"
    )
    counted = count_text(len(found), "image")
    say(f"{path}: {counted} to calibrate with, {measured}; {found.preprocessing}")
    return calibration


def run_quantize(
    source: Path,
    folder: ModelFolder,
    calibration: Calibration,
    wanted: QuantizeOptions,
    explain: bool,
    remade: Collection[str] = (),
    truth: Truth | None = None,
) -> QuantizeResult:
    """Quantize, and say what came of it."""
    with uninterrupted():
        from ..optional import available
        from ..report.quantize import explanation, quantize_lines, verdict_text
        from ..steps.quantize import quantize_model
        from .progress import share_progress

        available("onnxruntime")
    elapsed = Stopwatch()
    with share_progress("quantizing") as progress:
        result = quantize_model(
            source,
            folder,
            calibration,
            wanted,
            lambda _what, share: progress(share),
            remade,
            truth,
        )
    if explain:
        say(explanation(result))
    for line in quantize_lines(result):
        say(line)
    made(result.path, elapsed, verdict_text(result))
    return result


def quantize_first(
    folder: ModelFolder,
    calib: Path,
    preprocessing: PreprocessingOptions,
    split: str | None,
    remade: Collection[str],
    truth: Truth | None,
) -> None:
    """What quantize does by itself, on the way to an engine."""
    with uninterrupted():
        from ..steps.quantize_options import QuantizeOptions

    folder.read_fused()
    calibration = open_calibration(calib, preprocessing, split, SAMPLES, 0, folder.fused)
    run_quantize(folder.fused, folder, calibration, QuantizeOptions(), False, remade, truth)
