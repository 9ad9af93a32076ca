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
        for order, (roof, macs, moved) in enumerate(roofs):
            corner = macs / moved
            axes.plot([left, corner, right], [left * moved, macs, macs], color=FIRST, linewidth=1.5)
            axes.text(  # side by side, since some are nearly as high as others
                1 - 0.22 * order, macs * 1.08, plain_label(roof), ha="right", va="bottom",
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
            one.set_major_locator(LogLocator(subs=ticks(*one.get_view_interval())))
            one.set_major_formatter(EngFormatter(sep=""))
            one.set_minor_formatter("")
        axes.set_xlabel("multiply-adds for each byte moved")
        axes.set_ylabel("multiply-adds a second")

    return to_svg(name, draw, 4.0, both=True)


def _numbers(points: Sequence[Point]) -> list[tuple[str, tuple[float, float]]]:
    """Numbers from 1 on; those of points that lie on one another are written as one."""
    written: dict[tuple[int, int], tuple[str, tuple[float, float]]] = {}
    for number, point in enumerate(points, 1):
        spot = round(8 * log10(point.intensity)), round(12 * log10(point.reached))
        before, place = written.get(spot, ("", (point.intensity, point.reached)))
        written[spot] = (f"{before}, {number}".lstrip(", "), place)
    return list(written.values())
