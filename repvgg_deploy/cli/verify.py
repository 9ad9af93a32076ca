"""repvgg-deploy verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..files import is_onnx
from ..workspace import ModelFolder, Workspace
from . import options
from .console import print_json, say, spinner, uninterrupted
from .subject import refuse_options

if TYPE_CHECKING:
    from ..models.spec import Strides

_READING = ("eps", "family", "ema", "strides")


@click.command("verify")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@options.eps
@options.family
@options.ema
@options.strides
@options.images
@options.truth
@options.device
@options.model
@options.engines
@options.as_json
def command(
    files: tuple[Path, ...],
    eps: float | None,
    family: str | None,
    ema: bool | None,
    strides: Strides | None,
    images: Path | None,
    truth: Path | None,
    device: str,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Prove that two FILES hold the same network, or check a whole folder.

    Each of two FILES may be a checkpoint, fused weights, an ONNX model (.onnx) or an engine
    (.engine), which needs its GPU. --eps, --family, --strides and --ema say how to read
    checkpoints; one of them has to hold the average of --ema.

    A folder such as engines/ckpt, or nothing for the current model, is checked from the checkpoint
    to the engines: every hash, what each file was made from, every stored proof; and the proofs
    that this machine can run are run again. Exit code 3 where a check fails.
    """
    if len(files) == 2:
        _refuse_for_files(files)
        reading = (eps, family, ema, strides)
        _verify_pair(files[0], files[1], reading, device, images, truth, as_json)
    elif not files or (len(files) == 1 and files[0].is_dir()):
        refuse_options(_READING, "a model's folder is read as fuse read it")
        if files:
            refuse_options(("model", "engines"), "a folder is named")
        folder = ModelFolder(files[0]) if files else Workspace(engines).folder(model)
        _verify_folder(folder, device, images, truth, as_json)
    else:
        raise click.UsageError("give two files, or one model's folder, or nothing.")


def _refuse_for_files(files: tuple[Path, ...]) -> None:
    refuse_options(("model", "engines"), "FILES are named")
    if all(map(is_onnx, files)):
        graphs = "both FILES are ONNX models"
        refuse_options((*_READING, "device"), graphs)


def _verify_pair(
    first: Path,
    second: Path,
    reading: tuple[float | None, str | None, bool | None, Strides | None],
    device: str,
    images: Path | None,
    truth: Path | None,
    as_json: bool,
) -> None:
    """``reading`` is --eps, --family, --ema and --strides."""
    with spinner("verifying") as elapsed:
        with uninterrupted():
            from ..equivalence.truth_file import read_truth
            from ..errors import CheckFailed
            from ..optional import available
            from ..report.proof import verdict_dict, verdict_lines
            from ..steps.verify import verify_pair
            from ..steps.weights import Reading

            available("onnxruntime")  # imported now: a signal amid that looks like its absence
        recorded = None if truth is None else read_truth(truth)
        verdict = verify_pair(first, second, device, images, Reading(*reading), recorded)
    for line in verdict_lines(verdict):
        say(line)
    if as_json:
        print_json([verdict_dict(verdict)])
    if verdict.failures:
        raise CheckFailed(
            f"{verdict.candidate}: is not the network of {verdict.reference}: "
            f"{verdict.failures[0]}."
        )
    say(f"the proof passed  {elapsed}")


def _verify_folder(
    folder: ModelFolder, device: str, images: Path | None, truth: Path | None, as_json: bool
) -> None:
    with spinner(f"verifying {folder.path}") as elapsed:
        with uninterrupted():
            from ..equivalence.truth_file import read_truth
            from ..errors import CheckFailed
            from ..optional import available
            from ..report.chain import chain_dict, chain_text
            from ..report.proof import verdict_lines
            from ..report.text import count_text
            from ..steps.calibration import measured_again
            from ..steps.chain import check_chain
            from ..steps.chain_proofs import Again

            available("onnxruntime")
        recorded = None if truth is None else read_truth(truth)
        again = Again(device, images, [], measured_again, recorded)
        chain = check_chain(folder, again)
    for verdict in again.verdicts:
        for line in verdict_lines(verdict):
            say(line)
    say(chain_text(chain))
    if as_json:
        print_json(chain_dict(chain, again.verdicts))
    if chain.failures:
        first = chain.failures[0]
        raise CheckFailed(f"{folder.path / first.file}: {first.kind}: {first.detail}.")
    passed = len(chain.checks) - len(chain.unchecked)
    left = count_text(len(chain.unchecked), "check")
    say(f"{count_text(passed, 'check')} passed, {left} not possible here  {elapsed}")
