"""The share of the ceiling that a measured network reaches."""

from __future__ import annotations

from ..record import Contest, Roofline
from .ceilings import Ceilings
from .counts import Counts


def roofline(contest: Contest, label: str, counts: Counts, ceilings: Ceilings) -> Roofline:
    """Of a subject that was measured in ``contest``, whose graph has ``counts`` at that batch.

    Raises:
        UserError: no ceiling was measured for a precision that it computes in.
    """
    raise NotImplementedError


def remark(line: Roofline) -> str | None:
    """What has to be said beside a share: one above 1 has a reason."""
    raise NotImplementedError
