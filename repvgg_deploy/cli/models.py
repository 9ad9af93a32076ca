"""repvgg-deploy models"""

from __future__ import annotations

import click

from . import options
from .console import print_json, uninterrupted


@click.command("models")
@options.as_json
def command(as_json: bool) -> None:
    """Print every variant's size, work and accuracy.

    Parameters and multiply-adds are counted by walking the networks; top-1 is the authors' figure.
    """
    with uninterrupted():
        from ..report.models import models_text
        from ..steps.models import count_zoo

    rows = count_zoo()
    if as_json:
        print_json(rows)
    else:
        click.echo(models_text(rows))
