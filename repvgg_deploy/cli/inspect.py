"""repvgg-deploy inspect"""

from __future__ import annotations

import click

from . import options
from .console import print_json, spinner, uninterrupted
from .subject import check_options, take


@click.command("inspect")
@click.argument("subject")
@options.eps
@options.family
@options.ema
@options.allow_costlier
@options.as_json
def command(
    subject: str,
    eps: float | None,
    family: str | None,
    ema: bool | None,
    allow_costlier: bool,
    as_json: bool,
) -> None:
    """Show what a file holds and what fuse would do with it.

    SUBJECT is a checkpoint or an ONNX model as fuse takes it, from the Hugging Face hub too.
    Prints the code base, blocks or regions, parameters before and after, and what would stay as it
    is with the reason. Writes nothing.
    """
    taken = take(subject)
    check_options(taken)
    with spinner(f"reading {taken.path}"), uninterrupted():
        from ..report.inspect import checkpoint_text, onnx_text
        from ..steps.inspect import inspect_checkpoint, inspect_onnx
        from ..steps.weights import Reading
    if taken.is_onnx:
        graph = inspect_onnx(taken.path, allow_costlier=allow_costlier)
        print_json(graph) if as_json else click.echo(onnx_text(graph))
    else:
        checkpoint = inspect_checkpoint(taken.path, Reading(eps, family, ema))
        print_json(checkpoint) if as_json else click.echo(checkpoint_text(checkpoint))
