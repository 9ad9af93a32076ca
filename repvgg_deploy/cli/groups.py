"""Commands of many options: gathered into values, and listed in sections."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

#: Those that click has on every command.
_LAST = "Other"


def gather(
    target: str, make: Callable[..., Any], options: Mapping[str, Callable[..., Any]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add ``options``, by the names of their parameters, to a command, which gets them as one
    ``target``: what ``make`` makes of them."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gathered(*args: Any, **given: Any) -> None:
            values = {name: given.pop(name) for name in options}
            command(*args, **{target: make(**values)}, **given)

        for option in reversed(options.values()):
            gathered = option(gathered)
        return gathered

    return add


class SectionedCommand(click.Command):
    """``sections``: titles, and the names of the parameters that stand under each."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click has it, but for the headings."""
        placed = {name for names in self.sections.values() for name in names}
        parameters = {one.name or "": one for one in self.get_params(ctx)}
        rest = [name for name in parameters if name not in placed]
        for title, names in {**self.sections, _LAST: rest}.items():
            records = [parameters[name].get_help_record(ctx) for name in names]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
