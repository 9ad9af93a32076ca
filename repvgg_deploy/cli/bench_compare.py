"""repvgg-deploy bench --compare"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .console import print_json, say, uninterrupted

#: A run that passes for steady may have drifted by this much (bench/stats.py, LARGEST_DRIFT).
_SMALLEST, _LARGEST = 3, 1000
_OURS = {"compare", "fail_if_slower", "as_json"}


class Percent(click.ParamType[float]):
    """``5%`` as 0.05."""

    name = "N%"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,4}(?:\.\d{1,3})?)%", value)
        if match is None or not _SMALLEST <= float(match[1]) <= _LARGEST:
            self.fail(
                f"{value!r} is no percentage from {_SMALLEST}% to {_LARGEST}%, such as 5%.",
                param,
                ctx,
            )
        return float(match[1]) / 100


def compare_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``compare`` and ``fail_if_slower``."""
    command = click.option(
        "--fail-if-slower",
        type=Percent(),
        help="With --compare: exit 3 when a subject is slower by more than that, its whole "
        "interval beyond it; exit 1 when one could not be judged.",
    )(command)
    return click.option(
        "--compare",
        nargs=2,
        type=click.Path(path_type=Path),
        metavar="OLD NEW",
        help="Measure nothing; tell change from noise between two bench.json.",
    )(command)


def check_options(
    ctx: click.Context, compare: tuple[Path, Path] | None, fail_if_slower: float | None
) -> None:
    """Refuse options that would have no effect; click.UsageError."""
    if compare is None:
        if fail_if_slower is not None:
            raise click.UsageError("--fail-if-slower needs --compare OLD NEW.")
        return
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if given and param.name not in _OURS:
            name = param.opts[0] if isinstance(param, click.Option) else param.make_metavar(ctx)
            raise click.UsageError(f"{name} has no effect with --compare, which measures nothing.")


def run_compare(old: Path, new: Path, limit: float | None, as_json: bool) -> None:
    """Print the comparison.

    Raises:
        UserError: files that cannot be read or compared; with a limit, subjects left unjudged.
        CheckFailed: a subject is slower by more than the limit.
    """
    with uninterrupted():
        from ..report.compare import comparison_text
        from ..steps.compare import check_limit, compare_files

    comparison = compare_files(old, new)
    say(comparison_text(comparison))
    if as_json:
        print_json(comparison)
    if limit is not None:
        check_limit(comparison, limit)
