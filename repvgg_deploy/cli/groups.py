"""Commands of many options: gathered into values, and listed in sections; types of options."""

from __future__ import annotations

import functools
import re
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

        for option in reversed(list(options.values())):
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


class Amount(click.ParamType[float]):
    """A number from 0 to ``largest``, or ``below`` it, which ``nan`` is not."""

    name = "X"

    def __init__(self, largest: float, *, below: bool = False) -> None:
        self._largest, self._below = largest, below

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= self._largest or (self._below and number == self._largest):
            to = f"below {self._largest:g}" if self._below else f"up to {self._largest:g}"
            self.fail(f"{value!r} is no number from 0 and {to}.", param, ctx)
        return number


class Numbers(click.ParamType[tuple[int, ...]]):
    """``2,9``: ``count`` numbers from ``least`` to ``largest``."""

    def __init__(self, count: int, largest: int, example: str, least: int = 0) -> None:
        self.name = ",".join("N" * count)
        self._count, self._largest, self._example = count, largest, example
        self._least = least

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if len(parts) != self._count or not all(re.fullmatch(r"\d{1,6}", one) for one in parts):
            self.fail(f"{value!r} is not {self._count} numbers, as {self._example}.", param, ctx)
        numbers = tuple(map(int, parts))
        if max(numbers) > self._largest:
            self.fail(f"{value!r} has a number above {self._largest}.", param, ctx)
        if min(numbers) < self._least:
            self.fail(f"{value!r} has a number below {self._least}.", param, ctx)
        return numbers
