"""repvgg-deploy fuse"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from . import options
from .console import made, print_json, say, spinner, uninterrupted


@click.command("fuse")
@click.argument("checkpoint", type=click.Path(path_type=Path))
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
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Prove equivalence before writing.",
)
@options.images
@options.device
@options.engines
@options.as_json
def command(
    checkpoint: Path,
    name: str | None,
    pth: bool,
    form: Literal["theirs", "ours"],
    eps: float | None,
    family: str | None,
    ema: bool | None,
    verify: bool,
    images: Path | None,
    device: str,
    engines: Path,
    as_json: bool,
) -> None:
    """Fold a training CHECKPOINT into a plain network.

    Reads .pth, .pt, .safetensors and MegEngine's .pkl; recognises the code base from keys and
    shapes (docs/families.md), folds every block into one convolution in float64, proves each, and
    writes engines/<model>/fused.safetensors.
    """
    with spinner(f"fusing {checkpoint}") as elapsed:
        with uninterrupted():
            from ..report.fuse import found_lines
            from ..report.proof import proof_lines
            from ..steps.fuse import fuse_checkpoint
            from ..steps.weights import Reading
            from ..workspace import Workspace

        result = fuse_checkpoint(
            checkpoint,
            Workspace(engines),
            reading=Reading(eps, family, ema),
            name=name,
            form=form,
            pth=pth,
            prove=verify,
            images=images,
            device=device,
        )
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
    say(f"current model: {result.folder.name}")
    for path in result.files:
        made(path, elapsed, verdict)
    if as_json:
        print_json(result.artifact)
