"""Numbers as a reader wants them; the page carries the exact value beside each."""

from __future__ import annotations

_SIZES = ("B", "kB", "MB", "GB", "TB")


def plain(value: float) -> str:
    """Three digits: ``0.0123``, ``1.23``, ``1,230``."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 or not size else 3
    return f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """Two decimals, of ranges."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def integer(value: float) -> str:
    return f"{value:,.0f}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}" if seconds >= 1e-4 else f"{seconds * 1e3:.4f}"


def times(ratio: float) -> str:
    return f"{ratio:.2f}\N{MULTIPLICATION SIGN}"


def percent(share: float) -> str:
    return f"{share:.1%}"


def exact_percent(value: float) -> str:
    """Of a value that is in percent already."""
    return f"{value:.2f}\N{NO-BREAK SPACE}%"


def loss(value: float) -> str:
    """Four decimals, as losses are compared."""
    return f"{value:.4f}"


def points(share: float) -> str:
    """A difference of shares, in points."""
    return f"{share * 100:+.2f}".replace("-", "\N{MINUS SIGN}")


def decibel(value: float) -> str:
    return f"{value:.1f}"


def size(count: float) -> str:
    """``33.2 MB``, decimal as file managers have it."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_SIZES) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_SIZES[unit]}"


FORMATS = {
    "plain": plain, "signed": signed, "integer": integer, "milliseconds": milliseconds,
    "times": times, "percent": percent, "points": points, "decibel": decibel, "size": size,
    "exact_percent": exact_percent, "loss": loss,
}  # fmt: skip
