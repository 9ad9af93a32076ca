"""Learning curves: what a training run reached, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .svg import FAINT, FIRST, SECOND, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: By the name of a curve: colour, and dashes that tell it without colour.
_STYLES = {
    "training": (FAINT, (0, (1, 1.5))),
    "validation": (SECOND, "-"),
    "moving average": (FIRST, (0, (5, 2))),
}
#: Beyond so many points a disc at each hides the line.
_MOST_DISCS = 40


@dataclass(frozen=True)
class Curve:
    """``name`` is training, validation or moving average; a value an epoch, None: not measured."""

    name: str
    values: Sequence[float | None]


def curves(name: str, epochs: Sequence[int], shown: Sequence[Curve], axis: str) -> str:
    """``name`` is that of the plot, for its ids; empty where there is no value at all."""
    from matplotlib.ticker import MaxNLocator

    drawn = [one for one in shown if any(value is not None for value in one.values)]
    if not drawn:
        return ""

    def draw(axes: Axes) -> None:
        for one in drawn:
            color, dashes = _STYLES[one.name]
            known = [(e, v) for e, v in zip(epochs, one.values, strict=True) if v is not None]
            disc = "o" if len(known) <= _MOST_DISCS else ""
            axes.plot(
                *zip(*known, strict=True), marker=disc, markersize=3, color=color,
                linestyle=dashes, linewidth=1.8, label=one.name,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(axis)
        if len(drawn) > 1:
            axes.legend(frameon=False, fontsize=9)

    return to_svg(name, draw, 2.8, both=True)
