"""repvgg-deploy fuse"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from . import options
from .console import Stopwatch, made, print_json, say, spinner, uninterrupted
from .subject import check_options, refuse_options, take

if TYPE_CHECKING:
    from ..models.spec import Strides
    from ..steps.fuse import FuseResult


@click.command("fuse")
@click.argument("subject")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where a fused ONNX model goes. [default: engines/<name>/fused.onnx]",
)
@options.allow_costlier
@click.option("--name", help="Name of the model in the workspace. [default: the file's stem]")
@click.option("--pth", is_flag=True, help="Also write fused.pth, for torch.load.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["theirs", "ours"]),
    default="theirs",
    show_default=True,
    help="Key names: those of the code base's own deploy form, or, for a whole RepVGG network, "
    "the official ones.",
)
@options.eps
@options.family
@options.ema
@options.strides
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Prove equivalence before writing.",
)
@options.images
@options.truth
@options.device
@options.engines
@options.as_json
def command(
    subject: str,
    output: Path | None,
    allow_costlier: bool,
    name: str | None,
    pth: bool,
    form: Literal["theirs", "ours"],
    eps: float | None,
    family: str | None,
    ema: bool | None,
    strides: Strides | None,
    verify: bool,
    images: Path | None,
    truth: Path | None,
    device: str,
    engines: Path,
    as_json: bool,
) -> None:
    """Fold a training checkpoint or an ONNX graph into a plain network.

    SUBJECT is a file, or hf:OWNER/REPO[@REVISION][:FILE] on the Hugging Face hub.

    A checkpoint (.pth, .pt, .safetensors, MegEngine's .pkl): recognises the code base from keys
    and shapes (docs/families.md), folds every block into one convolution in float64, proves each,
    and writes engines/<model>/fused.safetensors.

    An .onnx file: every linear region that one convolution can hold becomes one Conv, and the
    fused graph is proved against the original (docs/onnx.md).
    """
    _refuse_what_has_no_effect(verify, truth, output)
    taken = take(subject)
    check_options(taken)
    name = taken.name if name is None else name
    if taken.is_onnx:
        target = output or _default_output(taken.path, engines, name)
        _fuse_graph(taken.path, target, allow_costlier, verify, images, truth, as_json)
        return
    with spinner(f"fusing {taken.path}") as elapsed:
        with uninterrupted():
            from ..equivalence.truth_file import read_truth
            from ..steps.fuse import fuse_checkpoint
            from ..steps.weights import Reading
            from ..workspace import Workspace

        result = fuse_checkpoint(
            taken.path,
            Workspace(engines),
            reading=Reading(eps, family, ema, strides),
            name=name,
            origin=taken.origin,
            form=form,
            pth=pth,
            prove=verify,
            images=images,
            device=device,
            truth=None if truth is None else read_truth(truth),
        )
    _tell(result, elapsed)
    if as_json:
        print_json(result.artifact)


def _refuse_what_has_no_effect(verify: bool, truth: Path | None, output: Path | None) -> None:
    if not verify:
        left_out = ("images",) if truth is not None else ("images", "device")
        refuse_options(left_out, "--no-verify leaves out the proof")
    if output is not None:
        refuse_options(("name", "engines"), "--output says where the model goes")


def _tell(result: FuseResult, elapsed: Stopwatch) -> None:
    from ..report.fuse import found_lines
    from ..report.proof import proof_lines
    from ..report.truth import not_compared, truth_line

    for line in found_lines(result):
        say(line)
    if result.artifact.source_form == "deploy":
        verdict = "already fused: taken as it is, nothing to prove"
    elif result.proof is None:
        verdict = "fused, NOT proved (--no-verify)"
    else:
        for line in proof_lines(result.proof):
            say(line)
        verdict = "fused and proved"
    say(not_compared(result) if result.truth is None else truth_line(result.truth))
    say(f"current model: {result.folder.name}")
    for path in result.files:
        made(path, elapsed, verdict)


def _default_output(path: Path, engines: Path, name: str | None) -> Path:
    from ..workspace import Workspace

    return Workspace(engines).claim_graph(path.stem if name is None else name, path)


def _fuse_graph(
    path: Path,
    output: Path,
    costlier: bool,
    verify: bool,
    inputs: Path | None,
    truth: Path | None,
    as_json: bool,
) -> None:
    with spinner(f"fusing {path}") as elapsed:
        with uninterrupted():
            from ..equivalence.truth_file import read_truth
            from ..optional import available
            from ..report.graph import graph_lines
            from ..steps.fuse_onnx import fuse_onnx

            available("onnxruntime")  # imported now: a signal amid that looks like its absence
        result = fuse_onnx(
            path,
            output,
            allow_costlier=costlier,
            prove=verify,
            inputs=inputs,
            truth=None if truth is None else read_truth(truth),
        )
    for line in graph_lines(result):
        say(line)
    verdict = "fused" if result.fused else "unchanged"
    if result.fused:
        verdict += " and proved" if result.proof else ", NOT proved (--no-verify)"
    for file in result.files:
        made(file, elapsed, verdict)
    if as_json:
        print_json(result.artifact)
