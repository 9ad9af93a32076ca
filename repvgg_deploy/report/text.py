"""Tables and short phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first ``left`` to the left, numbers after them to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def render(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([render(lines[0]), *map(render, lines[1:])])


def one_line(text: str) -> str:
    """Text from a file that could otherwise pass for a line of ours."""
    return text.replace("\n", "\\n")


def count_text(count: int, noun: str) -> str:
    """``1 output``, ``2 outputs``"""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


#: More places than this that stayed as they are would bury the rest.
_LISTED = 5


def left_lines(places: Sequence[str]) -> list[str]:
    """What stayed as it is and why, the first few."""
    lines = [f"left as it is: {place}" for place in places[:_LISTED]]
    if len(places) > _LISTED:
        lines.append(f"left as they are: {len(places) - _LISTED} more; inspect lists them")
    return lines


def counts_text(counts: Mapping[str, int]) -> str:
    """``47 nodes (22 Conv, 22 Relu, ...)``"""
    parts = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{sum(counts.values())} nodes ({parts})"


def shown(text: str) -> str:
    """Text from a file in one line, with control characters and changes of direction visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
