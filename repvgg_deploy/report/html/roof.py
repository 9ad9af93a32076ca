"""The roofline: what networks reach beside what the device could do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from .svg import FIRST, GRID, SECOND, plain_label, ticks, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        for _, macs, moved in roofs:
            corner = macs / moved
            axes.plot([left, corner, right], [left * moved, macs, macs], color=FIRST, linewidth=1.5)
        for height, names in _names(roofs):
            axes.text(  # right of the plot, where no number stands
                1.01, height, "\n".join(map(plain_label, names)), ha="left", va="center",
                transform=axes.get_yaxis_transform(), parse_math=False,
            )  # fmt: skip
        for point in points:
            axes.plot([point.intensity] * 2, [point.reached, point.ceiling], color=GRID)
            axes.plot(point.intensity, point.reached, "o", color=SECOND, markersize=5.5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        bottom, top = axes.get_ylim()
        for number, place in _numbers(points, right / left, top / bottom):
            axes.annotate(number, place, (7, -3), textcoords="offset points")
        for one in (axes.xaxis, axes.yaxis):
            one.set_major_locator(LogLocator(subs=ticks(*one.get_view_interval())))
            one.set_major_formatter(EngFormatter(sep=""))
            one.set_minor_formatter("")
        axes.set_xlabel("multiply-adds for each byte moved")
        axes.set_ylabel("multiply-adds a second")

    return to_svg(name, draw, 4.0, both=True)


def _names(roofs: Sequence[tuple[str, float, float]]) -> list[tuple[float, list[str]]]:
    """Heights and what is written there, the highest first; roofs close to one another share."""
    written: list[tuple[float, list[str]]] = []
    for name, macs, _ in sorted(roofs, key=lambda roof: -roof[1]):
        if written and written[-1][0] < 2 * macs:
            written[-1][1].append(name)
        else:
            written.append((macs, [name]))
    return written


def _numbers(
    points: Sequence[Point], across: float, along: float
) -> list[tuple[str, tuple[float, float]]]:
    """Numbers from 1 on; points that lie near one another share a text. ``across`` and ``along``
    are the ratios of the axes' ends: a text is about an eighth as wide, a twentieth as high."""
    width, height = log10(across) / 8, log10(along) / 20
    spots: dict[tuple[int, int], list[int]] = {}
    for number, point in enumerate(points, 1):
        spot = round(log10(point.intensity) / width), round(log10(point.reached) / height)
        spots.setdefault(spot, []).append(number)
    places = {number: (p.intensity, p.reached) for number, p in enumerate(points, 1)}
    return [(_spans(numbers), places[numbers[0]]) for numbers in spots.values()]


def _spans(numbers: Sequence[int]) -> str:
    """``1-3, 7``"""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in spans)
