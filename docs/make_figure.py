"""Draw the README's figure: python docs/make_figure.py writes docs/block.svg."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

Point = tuple[float, float]

WIDTH, HEIGHT, CSS_DPI = 900, 380, 96  # drawing units are CSS pixels, y pointing down
INK, MUTED, WIRE, PANEL, EDGE = "#1f2933", "#52606d", "#616e7c", "#f5f7fa", "#d5dbe1"
CONV, NORM, PLAIN, RELU = "#cfe0f3", "#fbe6c4", "#ffffff", "#d3ead9"
BRANCHES = ((-1, "3\u00d73 conv", CONV), (0, "1\u00d71 conv", CONV), (1, "identity", PLAIN))
BOX_HEIGHT, SPLIT, CONV_Y, NORM_Y, SUM_Y, RELU_Y = 34, 98, 133, 186, 242, 289
IN_Y, OUT_Y = 70, 340


def text(
    ax: Axes, at: Point, words: str, size: float = 12, color: str = INK, weight: str = "normal"
) -> None:
    font = {"fontsize": size, "color": color, "fontweight": weight}
    ax.text(*at, words, font, ha="center", va="center_baseline")


def rounded(ax: Axes, centre: Point, size: Point, radius: float, fill: str, edge: str) -> None:
    corner = (centre[0] - size[0] / 2, centre[1] - size[1] / 2)
    shape = f"round,pad=0,rounding_size={radius}"
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, fc=fill, ec=edge, lw=1))


def box(ax: Axes, centre: Point, words: str, fill: str, width: float = 104) -> None:
    rounded(ax, centre, (width, BOX_HEIGHT), 6, fill, WIRE)
    text(ax, centre, words)


def line(ax: Axes, *points: Point) -> None:
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, color=WIRE, lw=1.3, solid_joinstyle="round", solid_capstyle="round")


def arrow(ax: Axes, *points: Point, width: float = 1.3, head: float = 10) -> None:
    """A bent line whose last, straight stretch ends in a head touching the last point."""
    if len(points) > 2:
        line(ax, *points[:-1])
    props = {"arrowstyle": "-|>", "color": WIRE, "lw": width, "mutation_scale": head}
    props |= {"shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=points[-1], xytext=points[-2], arrowprops=props)


def frame(ax: Axes, centre_x: float, width: float, title: str) -> None:
    """A titled panel with the input and output labels every form shares."""
    rounded(ax, (centre_x, 206), (width, 308), 10, PANEL, EDGE)
    text(ax, (centre_x, 30), title, 14, weight="bold")
    text(ax, (centre_x, IN_Y), "input", color=MUTED)
    text(ax, (centre_x, OUT_Y), "output", color=MUTED)


def tail(ax: Axes, x: float) -> None:
    box(ax, (x, RELU_Y), "ReLU", RELU)
    arrow(ax, (x, RELU_Y + BOX_HEIGHT / 2), (x, OUT_Y - 12))


def training_form(ax: Axes, x: float, pitch: float = 128, radius: float = 13) -> None:
    frame(ax, x, 416, "training form")
    half = BOX_HEIGHT / 2
    line(ax, (x, IN_Y + 15), (x, SPLIT))
    for side, words, fill in BRANCHES:
        column = x + side * pitch
        arrow(ax, (x, SPLIT), (column, SPLIT), (column, CONV_Y - half))
        box(ax, (column, CONV_Y), words, fill)
        arrow(ax, (column, CONV_Y + half), (column, NORM_Y - half))
        box(ax, (column, NORM_Y), "BN", NORM)
        if side:
            line(ax, (column, NORM_Y + half), (column, SUM_Y))
            arrow(ax, (column, SUM_Y), (x + side * radius, SUM_Y))
        else:
            arrow(ax, (column, NORM_Y + half), (column, SUM_Y - radius))
    ax.add_patch(Circle((x, SUM_Y), radius, fc="white", ec=WIRE, lw=1))
    line(ax, (x - 6, SUM_Y), (x + 6, SUM_Y))
    line(ax, (x, SUM_Y - 6), (x, SUM_Y + 6))
    arrow(ax, (x, SUM_Y + radius), (x, RELU_Y - half))
    tail(ax, x)


def deploy_form(ax: Axes, x: float) -> None:
    frame(ax, x, 210, "deploy form")
    middle = (IN_Y + 15 + RELU_Y - BOX_HEIGHT / 2) / 2
    arrow(ax, (x, IN_Y + 15), (x, middle - BOX_HEIGHT / 2))
    box(ax, (x, middle), "3\u00d73 conv + bias", CONV, 156)
    arrow(ax, (x, middle + BOX_HEIGHT / 2), (x, RELU_Y - BOX_HEIGHT / 2))
    tail(ax, x)


def draw() -> Figure:
    matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the picture
    matplotlib.rc("font", family="DejaVu Sans")  # ships with matplotlib
    matplotlib.rc("svg", fonttype="path", hashsalt="repvgg-deploy")
    figure = Figure(figsize=(WIDTH / CSS_DPI, HEIGHT / CSS_DPI), dpi=CSS_DPI, facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    ax.set_axis_off()
    rounded(ax, (WIDTH / 2, HEIGHT / 2), (WIDTH - 2, HEIGHT - 2), 12, "white", EDGE)
    training_form(ax, 228)
    deploy_form(ax, 775)
    arrow(ax, (462, 206), (644, 206), width=2.2, head=18)
    text(ax, (553, 185), "fuse", 14, weight="bold")
    text(ax, (553, 232), "(exact: every\nbranch is linear)", 11, color=MUTED)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("block.svg"), metadata={"Date": None})
