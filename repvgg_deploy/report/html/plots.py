"""Dots with intervals, a row for each thing that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .svg import BAD, FIRST, GRID, INK, SECOND, plain_label, ticks, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches from one row to the next.
ROW = 0.2


@dataclass(frozen=True)
class Dot:
    """A value on a row with an interval that may be left out (None)."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """``first`` is drawn as a ring and ``second`` as a disc, either may be absent; ``group`` is
    written above the first row of it; ``bad`` marks a row that fails."""

    label: str
    second: Dot | None
    first: Dot | None = None
    group: str = ""
    bad: bool = False


def dots(
    name: str,
    rows: Sequence[Row],
    axis: str,
    *,
    log: bool = False,
    line: float | None = None,
    zero: bool = False,
) -> str:
    """A row for each label, from the top; ``line`` is a bound that is drawn across.

    ``name`` is that of the plot, for its ids.
    """
    from matplotlib.ticker import LogLocator

    places, groups, height = _layout(rows)

    def draw(axes: Axes) -> None:
        if line is not None:
            axes.axvline(line, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        for y, row in zip(places, rows, strict=True):
            if row.first is not None and row.second is not None:
                axes.plot([row.first.value, row.second.value], [y, y], color=GRID, linewidth=2)
            _dot(axes, row.first, y, FIRST, filled=False)
            _dot(axes, row.second, y, BAD if row.bad else SECOND, filled=True)
        axes.set_yticks(places, [plain_label(row.label) for row in rows], parse_math=False)
        for y, group in groups:
            axes.text(
                -0.01, y, plain_label(group), transform=axes.get_yaxis_transform(), ha="right",
                va="center", color=INK, fontweight="bold", parse_math=False,
            )  # fmt: skip
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=ticks(*axes.get_xlim())))
            axes.xaxis.set_major_formatter(lambda value, _place: _short(value))
            axes.xaxis.set_minor_formatter("")
        elif zero:
            axes.set_xlim(left=0)
        axes.set_ylim(max(places, default=0) + 0.8, -0.8)
        axes.set_xlabel(axis)

    return to_svg(name, draw, height)


def _layout(rows: Sequence[Row]) -> tuple[list[float], list[tuple[float, str]], float]:
    """Where rows and the names of groups stand, and the height in inches."""
    y, places, groups = 0.0, [], []
    for number, row in enumerate(rows):
        if row.group and (number == 0 or rows[number - 1].group != row.group):
            y += 0.4 if number else 0
            groups.append((y, row.group))
            y += 1
        places.append(y)
        y += 1
    return places, groups, max(y, 2) * ROW + 0.7


def _short(value: float) -> str:
    return f"{value:g}" if value < 1000 else f"{value / 1000:g}k"


def _dot(axes: Axes, dot: Dot | None, y: float, color: str, *, filled: bool) -> None:
    if dot is None:
        return
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.low, dot.high], [y, y], color=color, linewidth=2.5, solid_capstyle="butt")
    face = color if filled else "none"
    axes.plot([dot.value], [y], "o", color=color, markerfacecolor=face, markersize=5.5)
