"""Inline SVG that takes the page's own colours and font."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
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
WIDTH = 5.2
_LONGEST = 30


def ticks(low: float, high: float) -> Sequence[float]:
    """The fewer in each decade, the more decades there are."""
    return (1, 3) if high > 50 * low else (1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 7)


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


def to_svg(name: str, draw: Callable[[Axes], None], height: float, *, both: bool = False) -> str:
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


def plain_label(text: str) -> str:
    """What every font can draw, and no longer than a plot is wide."""
    plain = "".join(c if c.isascii() else "?" for c in shown(text))
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."
