"""Plots as inline SVG that takes the page's own colours and font."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Any

from ..text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Drawn in these colours, which stand for the page's own: those change with its light or dark form.
INK, FAINT, GRID, FIRST, SECOND, BAD = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606",
)  # fmt: skip
_VARIABLES = {
    INK: "--ink", FAINT: "--faint", GRID: "--grid", FIRST: "--first", SECOND: "--second",
    BAD: "--bad",
}  # fmt: skip
#: Inches of 72 units: 374 units are as wide as a telephone, so that text keeps its size there.
WIDTH, ROW = 5.2, 0.2
_LONGEST = 30


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
        axes.set_yticks(places, [_label(row.label) for row in rows], parse_math=False)
        for y, group in groups:
            axes.text(
                -0.01, y, _label(group), transform=axes.get_yaxis_transform(), ha="right",
                va="center", color=INK, fontweight="bold", parse_math=False,
            )  # fmt: skip
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=_ticks(*axes.get_xlim())))
            axes.xaxis.set_major_formatter(lambda value, _place: _short(value))
            axes.xaxis.set_minor_formatter("")
        elif zero:
            axes.set_xlim(left=0)
        axes.set_ylim(max(places, default=0) + 0.8, -0.8)
        axes.set_xlabel(axis)

    return _svg(name, draw, height)


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


def _ticks(low: float, high: float) -> Sequence[float]:
    """The fewer in each decade, the more decades there are."""
    return (1, 3) if high > 50 * low else (1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 7)


def _dot(axes: Axes, dot: Dot | None, y: float, color: str, *, filled: bool) -> None:
    if dot is None:
        return
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.low, dot.high], [y, y], color=color, linewidth=2.5, solid_capstyle="butt")
    face = color if filled else "none"
    axes.plot([dot.value], [y], "o", color=color, markerfacecolor=face, markersize=5.5)


@dataclass(frozen=True)
class Point:
    """A network on the roofline: multiply-adds for each byte, and a second."""

    intensity: float
    reached: float
    ceiling: float


def roofline(name: str, points: Sequence[Point], roofs: Sequence[tuple[str, float, float]]) -> str:
    """``roofs`` are name, multiply-adds and bytes a second. A line leads up to each ceiling."""
    from matplotlib.ticker import EngFormatter, LogLocator

    lows = [min(p.intensity for p in points), *(macs / moved for _, macs, moved in roofs)]
    highs = [max(p.intensity for p in points), *(macs / moved for _, macs, moved in roofs)]
    left, right = min(lows) / 3, max(highs) * 3

    def draw(axes: Axes) -> None:
        for order, (roof, macs, moved) in enumerate(roofs):
            corner = macs / moved
            axes.plot([left, corner, right], [left * moved, macs, macs], color=FIRST, linewidth=1.5)
            axes.text(  # side by side, since some are nearly as high as others
                1 - 0.22 * order, macs * 1.08, _label(roof), ha="right", va="bottom",
                transform=axes.get_yaxis_transform(), parse_math=False,
            )  # fmt: skip
        for point in points:
            axes.plot([point.intensity] * 2, [point.reached, point.ceiling], color=GRID)
            axes.plot(point.intensity, point.reached, "o", color=SECOND, markersize=5.5)
        for number, place in _numbers(points):
            axes.annotate(number, place, (7, -3), textcoords="offset points")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        for one in (axes.xaxis, axes.yaxis):
            one.set_major_locator(LogLocator(subs=_ticks(*one.get_view_interval())))
            one.set_major_formatter(EngFormatter(sep=""))
            one.set_minor_formatter("")
        axes.set_xlabel("multiply-adds for each byte moved")
        axes.set_ylabel("multiply-adds a second")

    return _svg(name, draw, 4.0, both=True)


def _numbers(points: Sequence[Point]) -> list[tuple[str, tuple[float, float]]]:
    """Numbers from 1 on; those of points that lie on one another are written as one."""
    written: dict[tuple[int, int], tuple[str, tuple[float, float]]] = {}
    for number, point in enumerate(points, 1):
        spot = round(8 * log10(point.intensity)), round(12 * log10(point.reached))
        before, place = written.get(spot, ("", (point.intensity, point.reached)))
        written[spot] = (f"{before}, {number}".lstrip(", "), place)
    return list(written.values())


def _style(both: bool) -> Any:
    return {
        "svg.fonttype": "none", "svg.hashsalt": "repvgg-deploy", "font.size": 10,
        "font.family": ["DejaVu Sans"], "text.color": INK, "axes.labelcolor": FAINT,
        "xtick.color": FAINT, "ytick.color": FAINT, "ytick.labelcolor": INK,
        "axes.edgecolor": GRID, "grid.color": GRID, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": both,
        "axes.grid": True, "axes.grid.axis": "both" if both else "x", "grid.linewidth": 0.6,
        "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0,
        "xtick.minor.size": 0, "ytick.minor.size": 0,
    }  # fmt: skip


def _svg(name: str, draw: Callable[[Axes], None], height: float, *, both: bool = False) -> str:
    """The same bytes for the same data: no date, no random ids."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(both)):
        figure: Figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(stream.getvalue(), name)


_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _inline(svg: str, name: str) -> str:
    """Fit to stand in a page: without the prologue and style of a file, with the page's variables
    as colours, and with ids that no other plot of the page has."""
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"<style.*?</style>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def _label(text: str) -> str:
    """What every font can draw, and no longer than a plot is wide."""
    plain = "".join(c if c.isascii() else "?" for c in shown(text))
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."
