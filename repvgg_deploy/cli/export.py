"""repvgg-deploy export"""

from __future__ import annotations

from pathlib import Path

import click

from ..engine.options import PRECISIONS, QUANTIZED, BuildOptions
from . import build_options, data_options, options
from .build_options import ENGINE_ONLY
from .console import print_json, uninterrupted
from .data_options import PreprocessingOptions
from .export_parts import export_model, export_own
from .quantize_parts import quantize_first
from .subject import refuse_options


@click.command("export")
@click.argument("onnx_file", metavar="[ONNX]", required=False, type=click.Path(path_type=Path))
@click.option("--onnx", "want_onnx", is_flag=True, help="Write an ONNX model.")
@click.option(
    "--trt",
    type=click.Choice(PRECISIONS),
    help="Build a TensorRT engine of this precision, by way of an ONNX model of it.",
)
@click.option("--fp16", is_flag=True, help="Write the ONNX model of --onnx in half precision.")
@click.option("--opset", type=click.IntRange(min=13), help="ONNX opset. [default: 17; 22 for bf16]")
@click.option(
    "--batch",
    type=click.IntRange(1, options.LARGEST_BATCH),
    help="Fix the batch size. [default: dynamic]",
)
@options.image_size
@click.option(
    "--calib",
    type=click.Path(path_type=Path),
    help="With --trt int8: quantize first, with these images, as quantize does by itself.",
)
@data_options.split
@data_options.preprocessing_options
@options.truth
@build_options.flavour
@build_options.build_options
@build_options.timing_cache
@build_options.build_log
@click.option("--name", help="Folder in the workspace for the engine of ONNX. [default: its name]")
@options.model
@options.engines
@options.as_json
def command(
    onnx_file: Path | None,
    want_onnx: bool,
    trt: str | None,
    fp16: bool,
    opset: int | None,
    batch: int | None,
    image_size: tuple[int, int] | None,
    calib: Path | None,
    split: str | None,
    preprocessing: PreprocessingOptions,
    truth: Path | None,
    flavour: str,
    build: BuildOptions,
    timing_cache: Path | None,
    build_log: Path | None,
    name: str | None,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Write ONNX, and build a TensorRT engine from it.

    The ONNX model is simplified, checked by ONNX, and run in ONNX Runtime against torch. TensorRT
    builds the engine where it is installed with a GPU, else TensorRT-RTX ahead of time. The
    engine's precision is that of the ONNX model, and is proved from its types. Image size: --size,
    else that of the ONNX models that the model's folder holds already (with --trt int8: of
    int8.onnx), else that of training where its train.json is there, else the size the variant was
    published at, else 224.

    With ONNX, a model of your own (a fused one, or one with Q/DQ nodes), only the engine is built,
    in the precision that --trt says the model is of.
    """
    _check_usage(onnx_file, want_onnx, trt, fp16, batch)
    _check_calibration(onnx_file, trt, calib)
    with uninterrupted():
        from ..equivalence.truth_file import read_truth
        from ..steps.companions import Companions
        from ..workspace import Workspace

    workspace, companions = Workspace(engines), Companions(timing_cache, build_log)
    recorded = None if truth is None else read_truth(truth)
    if onnx_file is not None:
        assert trt is not None  # _check_usage
        artifacts = export_own(
            onnx_file, workspace, name, trt, flavour, build, companions, recorded
        )
    else:
        folder = workspace.model(model)
        wanted = {"fp16" if fp16 else "fp32"} if want_onnx else set()
        if calib is not None:
            quantize_first(folder, calib, preprocessing, split, wanted, recorded)
        onnx_options = (opset, image_size, batch)
        artifacts = export_model(
            folder, wanted, trt, onnx_options, flavour, build, companions, recorded
        )
    if as_json:
        print_json(artifacts)


def _check_calibration(onnx_file: Path | None, trt: str | None, calib: Path | None) -> None:
    """Images are for quantizing the current model, and for nothing else."""
    if calib is None:
        refuse_options(("split", *data_options.PREPROCESSING), "it is for the images of --calib")
    elif trt != "int8":
        raise click.UsageError("--calib has no effect here: it is for --trt int8.")
    elif onnx_file is not None:
        raise click.UsageError(
            f"--calib has no effect here: {onnx_file} is built as it is; quantize it with "
            "repvgg-deploy quantize."
        )


def _check_usage(
    onnx_file: Path | None, want_onnx: bool, trt: str | None, fp16: bool, batch: int | None
) -> None:
    """Options that contradict one another, or that would have no effect, are refused."""
    if trt in ("fp16", "bf16"):
        refuse_options(("tf32",), f"a {trt} engine has no float32 layer to round")
    if onnx_file is not None:
        if trt is None:
            raise click.UsageError("give --trt with the precision that ONNX is of.")
        ours = ("want_onnx", "fp16", "opset", "batch", "image_size", "model")
        refuse_options(ours, f"{onnx_file} is an ONNX model already")
        return
    refuse_options(("name",), "it is for the engine of an ONNX model that you name")
    if fp16 and not want_onnx:
        raise click.UsageError("--fp16 is the precision of --onnx; give both.")
    if not want_onnx and trt is None:
        raise click.UsageError("nothing to export; give --onnx, --trt fp16 or both.")
    if trt is None:
        refuse_options(ENGINE_ONLY, "it is for the engine of --trt")
    if trt in QUANTIZED:
        unused = ("batch", "image_size") if want_onnx else ("batch", "image_size", "opset")
        refuse_options(unused, f"--trt {trt} takes the Q/DQ model as it is")
    if batch is not None:
        refuse_options(("profiles",), "--batch fixes the engine's batch size")
