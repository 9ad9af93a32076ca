"""repvgg-deploy fuse"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import made, print_json, say, spinner, uninterrupted


@click.command("fuse")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the model in the workspace. [default: the file's stem]")
@click.option(
    "--pth", is_flag=True, help="Also write fused.pth for the official deploy=True model."
)
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
    verify: bool,
    images: Path | None,
    device: str,
    engines: Path,
    as_json: bool,
) -> None:
    """Fold a training CHECKPOINT into a plain network.

    Reads official RepVGG and RepVGGplus checkpoints (.pth, .pt, .safetensors), recognises the
    architecture from the shapes, folds every block into one 3x3 convolution in float64, proves
    that the fused network is the training network, and writes
    engines/<model>/fused.safetensors.
    """
    with spinner(f"fusing {checkpoint}") as elapsed:
        with uninterrupted():
            from ..report.proof import proof_lines
            from ..steps.fuse import fuse_checkpoint
            from ..workspace import Workspace

        result = fuse_checkpoint(
            checkpoint,
            Workspace(engines),
            name=name,
            pth=pth,
            prove=verify,
            images=images,
            device=device,
        )
    say(f"{checkpoint}: {result.artifact.architecture} ({result.wrapper}), {result.blocks} blocks")
    if result.dropped:
        say(f"left out, used only in training: {len(result.dropped)} tensors of auxiliary heads")
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
