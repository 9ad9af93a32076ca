"""repvgg-deploy report"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import made, print_json, say, spinner, uninterrupted


@click.command("report")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The HTML file; markdown and JSON go beside it. [default: engines/<model>/report.html]",
)
@click.option(
    "--evaluation",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What evaluate --json printed of this model elsewhere. [default: what it left here]",
)
@options.model
@options.engines
@options.as_json
def command(
    output: Path | None,
    evaluation: Path | None,
    model: str | None,
    engines: Path,
    as_json: bool,
) -> None:
    """Write the model's whole lineage as one page to pass around.

    Checkpoint, fused weights, ONNX models and engines with their hashes, the proof of every step,
    ranges of weights and activations, operators, the last benchmark and evaluation, and the
    commands that make it all again. One HTML file that needs no network, and the same as markdown
    and JSON.

    Every file is hashed again; what is not what its sidecar says is marked. Nothing is proved or
    timed anew: verify and bench do that. What is not made yet is named with its command.
    """
    with spinner("reading") as elapsed:
        with uninterrupted():
            from ..optional import require
            from ..report.html.write import report_files, write_report
            from ..steps.lineage.collect import collect
            from ..workspace import Workspace

            require("jinja2")
            require("matplotlib")
        folder = Workspace(engines).model(model)
        files = report_files(output or folder.path / "report.html")
        report = collect(folder, evaluation)
        write_report(report, files)
    for file in report.broken:
        say(f"NOT as recorded: {file.name}: {file.detail}")
    for missing in report.absent:
        say(f"{missing.section}: {missing.reason}: {missing.command}")
    proved = sum(proof.verdict == "proved" for proof in report.proofs)
    verdict = f"{proved} of {len(report.proofs)} steps proved"
    for path in files:
        made(path, elapsed, verdict)
    if as_json:
        print_json(report)
