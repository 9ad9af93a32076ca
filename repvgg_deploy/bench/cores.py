"""How many cores this process may use, and what pins its threads."""

from __future__ import annotations


def usable_cores() -> int:
    """Cores that this process can keep busy: the affinity mask, or the container's quota if less.

    ``os.cpu_count()`` is the machine's; that many threads on a smaller quota wait for one another.
    """
    raise NotImplementedError
