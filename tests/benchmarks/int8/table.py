"""What must hold, and the table that shows whether it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .score import Score

#: Of issue 5, on the original and on every twin.
MAX_TOP1_DROP = 0.15  # points below fp32
MIN_AGREEMENT = 99.3  # percent
MIN_SQNR = 30.0  # dB
MAX_DEVIATION = 0.5  # dB between a twin's SQNR and the original's

_ROUNDING = 1e-9  # a drop of 15 images in 10,000 is 0.15 points, in floats a little more
_TITLES = ("top-1", "agree", "SQNR", "top-1", "agree", "SQNR", "+/- dB", "float", "s")


@dataclass(frozen=True)
class Summary:
    """A method on the original network, and the worst of it on the rescaled twins.

    ``float_convs``: the most left in float on any of them; ``seconds``: of the slowest.
    ``deviation_db``: the largest difference between a twin's SQNR and the original's.
    ``missed``: names of the bounds that do not hold; empty: passed.
    """

    top1: float
    agreement: float
    sqnr_db: float
    worst_top1: float | None
    worst_agreement: float | None
    worst_sqnr_db: float | None
    deviation_db: float | None
    float_convs: int
    seconds: float
    missed: list[str]


def summarise(scores: Mapping[str, Score]) -> Summary:
    """Scores by variant, ``original`` among them, against the bounds."""
    original, every = scores["original"], list(scores.values())
    twins = [score for name, score in scores.items() if name != "original"]
    deviation = max((abs(twin.sqnr_db - original.sqnr_db) for twin in twins), default=None)
    holds = {
        "all convs int8": all(score.float_convs == 0 for score in every),
        "top-1": all(score.top1_drop <= MAX_TOP1_DROP + _ROUNDING for score in every),
        "agreement": all(score.agreement >= MIN_AGREEMENT - _ROUNDING for score in every),
        "SQNR": all(score.sqnr_db >= MIN_SQNR for score in every),
        "twins alike": deviation is None or deviation <= MAX_DEVIATION,
    }
    return Summary(
        top1=original.top1,
        agreement=original.agreement,
        sqnr_db=original.sqnr_db,
        worst_top1=min((twin.top1 for twin in twins), default=None),
        worst_agreement=min((twin.agreement for twin in twins), default=None),
        worst_sqnr_db=min((twin.sqnr_db for twin in twins), default=None),
        deviation_db=deviation,
        float_convs=max(score.float_convs for score in every),
        seconds=max(score.seconds for score in every),
        missed=[name for name, held in holds.items() if not held],
    )


def heading(width: int) -> str:
    """The two lines above the rows; ``width`` is that of the methods' names.

    ``float`` counts the convolutions that were left in float.
    """
    groups = f"{'':{width}} | {'original':^22} | {'worst of the twins':^30} |"
    titles = [f"{title:>6}" for title in _TITLES]
    return f"{groups}\n{'method':{width}} | {_columns(titles)}"


def row(name: str, summary: Summary, width: int) -> str:
    """One line: percent, percent, dB, ..., then PASS or which bounds are missed."""
    numbers = (
        summary.top1, summary.agreement, summary.sqnr_db,
        summary.worst_top1, summary.worst_agreement, summary.worst_sqnr_db, summary.deviation_db,
    )  # fmt: skip
    cells = ["     -" if number is None else f"{number:6.2f}" for number in numbers]
    cells += [f"{summary.float_convs:6}", f"{summary.seconds:6.1f}"]
    verdict = f"FAIL: {', '.join(summary.missed)}" if summary.missed else "PASS"
    return f"{name:{width}} | {_columns(cells)} | {verdict}"


def each_top1(name: str, scores: Mapping[str, Score], width: int) -> str:
    """One line: top-1 on the original and on each twin, in their order."""
    cells = (f"{score.top1:6.2f}" for score in scores.values())
    return f"{name:{width}} | {'  '.join(cells)}"


def _columns(cells: list[str]) -> str:
    return f"{'  '.join(cells[:3])} | {'  '.join(cells[3:7])} | {'  '.join(cells[7:])}"
