"""repvgg-deploy verify"""

from __future__ import annotations

from pathlib import Path

import click

from ..files import is_onnx
from . import options
from .console import print_json, say, spinner, uninterrupted
from .subject import refuse_options


@click.command("verify")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@options.eps
@options.family
@options.ema
@options.images
@options.device
@options.model
@options.engines
@options.as_json
def command(
    files: tuple[Path, ...],
    eps: float | None,
    family: str | None,
    ema: bool | None,
    images: Path | None,
    device: str,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Prove that two FILES hold the same network.

    Each may be a checkpoint, fused weights, an ONNX model (.onnx) or an engine (.engine), which
    needs its GPU. Without FILES, the current model's fused weights are held against its training
    checkpoint, and each of its ONNX models against the fused weights. --eps, --family and --ema say
    how to read FILES that are checkpoints; one of them has to hold the average of --ema. Exit code
    3 where a proof fails.
    """
    if len(files) not in (0, 2):
        raise click.UsageError("give two files, or none for the current model.")
    if files:
        refuse_options(("model", "engines"), "FILES are named")
        if all(map(is_onnx, files)):
            graphs = "both FILES are ONNX models"
            refuse_options(("eps", "family", "ema", "device"), graphs)
    else:
        refuse_options(("eps", "family", "ema"), "the current model is read as fuse read it")
    with spinner("verifying") as elapsed:
        with uninterrupted():
            from ..errors import CheckFailed
            from ..optional import available
            from ..report.proof import verdict_dict, verdict_lines
            from ..steps.verify import verify_model, verify_pair
            from ..steps.weights import Reading
            from ..workspace import Workspace

            available("onnxruntime")  # imported now: a signal amid that looks like its absence
        if files:
            reading = Reading(eps, family, ema)
            verdicts = [verify_pair(files[0], files[1], device, images, reading)]
        else:
            verdicts = verify_model(Workspace(engines).model(model), device, images)
    for verdict in verdicts:
        for line in verdict_lines(verdict):
            say(line)
    if as_json:
        print_json([verdict_dict(verdict) for verdict in verdicts])
    failed = [verdict for verdict in verdicts if verdict.failures]
    if failed:
        raise CheckFailed(
            f"{failed[0].candidate}: is not the network of {failed[0].reference}: "
            f"{failed[0].failures[0]}."
        )
    say(f"{len(verdicts)} of {len(verdicts)} proofs passed  {elapsed}")
