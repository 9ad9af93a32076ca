"""repvgg-deploy doctor"""

from __future__ import annotations

import click

from . import options
from .console import print_json, spinner, uninterrupted


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> None:
    """Say what is usable here, and how to add the rest."""
    with spinner("looking around"):
        with uninterrupted():
            from ..report.doctor import doctor_text
            from ..steps.doctor import examine

        findings = examine()
    if as_json:
        print_json(findings)
    else:
        click.echo(doctor_text(findings))
