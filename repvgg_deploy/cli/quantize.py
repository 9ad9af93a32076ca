"""repvgg-deploy quantize"""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UserError
from ..files import is_onnx
from ..workspace import Workspace
from . import data_options, options
from .console import print_json, uninterrupted
from .data_options import PreprocessingOptions
from .quantize_parts import METHODS, SAMPLES, open_calibration, run_quantize
from .subject import refuse_options


@click.command("quantize")
@click.argument("onnx_file", metavar="[ONNX]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--calib",
    required=True,
    type=click.Path(path_type=Path),
    help="Real images to calibrate with: a folder, IDX files, .npz or .npy. Labels are not used, "
    "but for the drop in top-1 that is printed.",
)
@data_options.split
@data_options.preprocessing_options
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=SAMPLES,
    show_default=True,
    help="Images to calibrate with; as many others are taken to measure the result on.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="thorough",
    show_default=True,
    help="thorough: equalization, bias correction and compensated rounding (seconds to minutes); "
    "quick: without the last. The others are single parts, to compare with (docs/quantization.md).",
)
@click.option(
    "--float",
    "float_type",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="What is not int8 computes in this type.",
)
@click.option("--no-stem", is_flag=True, help="Leave the first convolution in float.")
@click.option("--linear", is_flag=True, help="Quantize the classifier too.")
@click.option(
    "--min-sqnr",
    type=click.FloatRange(0, 200),
    help="In decibel. Keep the fewest, most harmful layers in float until the outputs reach it.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    help="In points of top-1, on labelled images: likewise.",
)
@options.truth
@click.option("--explain", is_flag=True, help="Say of each layer what was done and what was lost.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--name", help="Folder in the workspace for the int8 model of ONNX.")
@options.model
@options.engines
@options.as_json
def command(
    onnx_file: Path | None,
    calib: Path,
    split: str | None,
    preprocessing: PreprocessingOptions,
    samples: int,
    method: str,
    float_type: str,
    no_stem: bool,
    linear: bool,
    min_sqnr: float | None,
    max_drop: float | None,
    truth: Path | None,
    explain: bool,
    seed: int,
    name: str | None,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Make an int8 model with Q/DQ nodes from the fused network, without labels or training.

    Writes int8.onnx, for export --trt int8 and ONNX Runtime, and int8.safetensors, its integers.
    The weights may be those of an ONNX file of your own, fused and in fp32. Equalization is proved
    to leave the network what it is; the result is measured on images that were not calibrated with,
    and its integers are held against torch's. Exit code 3 where that fails.
    """
    if onnx_file is not None:
        refuse_options(("model",), f"{onnx_file} is named")
    else:
        refuse_options(("name",), "it is for the int8 model of an ONNX file that you name")
    with uninterrupted():
        from ..equivalence.truth_file import read_truth
        from ..steps.quantize_options import QuantizeOptions

    workspace = Workspace(engines)
    recorded = None if truth is None else read_truth(truth)
    if onnx_file is None:
        folder = workspace.model(model)
        folder.read_fused()
        source = folder.fused
    else:
        if not is_onnx(onnx_file):
            raise UserError(
                f"{onnx_file}: is no ONNX model (.onnx); make a checkpoint the current model with "
                "repvgg-deploy fuse, and quantize without naming a file."
            )
        folder, source = workspace.folder_of(onnx_file, name), onnx_file
    calibration = open_calibration(calib, preprocessing, split, samples, seed, source)
    if max_drop is not None and calibration.measured.labels is None:
        raise UserError(f"{calib}: has no labels, which --max-drop needs; give --min-sqnr.")
    wanted = QuantizeOptions(method, float_type, not no_stem, linear, seed, min_sqnr, max_drop)
    result = run_quantize(source, folder, calibration, wanted, explain, truth=recorded)
    if as_json:
        print_json(result.artifact)
