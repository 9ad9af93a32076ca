"""repvgg-deploy inspect"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .console import Stopwatch, made, print_json, spinner, uninterrupted, visible
from .subject import Subject, check_options, refuse_options, take

if TYPE_CHECKING:
    from ..models.spec import Strides


@click.command("inspect")
@click.argument("subject")
@options.eps
@options.family
@options.ema
@options.strides
@options.allow_costlier
@click.option(
    "--strip",
    is_flag=True,
    help="Also write the engine without the header that Ultralytics puts before it.",
)
@click.option(
    "-o",
    "--output",
    "plain",
    type=click.Path(path_type=Path),
    help="Where --strip writes. [default: beside it, as <name>.plain.engine]",
)
@options.as_json
def command(
    subject: str,
    eps: float | None,
    family: str | None,
    ema: bool | None,
    strides: Strides | None,
    allow_costlier: bool,
    strip: bool,
    plain: Path | None,
    as_json: bool,
) -> None:
    """Show what a file holds and what fuse would do with it.

    SUBJECT is a checkpoint or an ONNX model as fuse takes it, from the Hugging Face hub too.
    Prints the code base, blocks or regions, parameters before and after, and what would stay as it
    is with the reason.

    Of a TensorRT engine it prints what the sidecar says, or else the header, and whether the engine
    loads on this machine; if not, that is the answer and no error. Writes nothing but what --strip
    asks for.
    """
    taken = take(subject)
    check_options(taken)
    if not strip:
        refuse_options(("plain",), "only --strip writes a file")
    if taken.is_engine:
        _engine(taken.path, plain, strip, as_json)
    else:
        _network(taken, (eps, family, ema, strides), allow_costlier, as_json)


def _network(
    taken: Subject,
    reading: tuple[float | None, str | None, bool | None, Strides | None],
    allow_costlier: bool,
    as_json: bool,
) -> None:
    """``reading`` is --eps, --family, --ema and --strides."""
    with spinner(f"reading {taken.path}"), uninterrupted():
        from ..report.inspect import checkpoint_text, onnx_text
        from ..steps.inspect import inspect_checkpoint, inspect_onnx
        from ..steps.weights import Reading
    if taken.is_onnx:
        graph = inspect_onnx(taken.path, allow_costlier=allow_costlier)
        print_json(graph) if as_json else click.echo(visible(onnx_text(graph)))
    else:
        checkpoint = inspect_checkpoint(taken.path, Reading(*reading))
        print_json(checkpoint) if as_json else click.echo(visible(checkpoint_text(checkpoint)))


def _engine(path: Path, plain: Path | None, strip: bool, as_json: bool) -> None:
    with uninterrupted():
        from ..report.inspect_engine import engine_text
        from ..steps.inspect_engine import inspect_engine, plain_path, strip_engine
    with spinner(f"reading {path}"):
        engine = inspect_engine(path)
    print_json(engine) if as_json else click.echo(visible(engine_text(engine)))
    if strip:
        elapsed, output = Stopwatch(), plain or plain_path(path)
        strip_engine(path, output)
        made(output, elapsed, "plain engine")
