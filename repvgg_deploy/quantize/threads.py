"""Work that is shared by threads, with results that do not depend on how many there are.

A sum that a library divides among its threads is rounded otherwise for each number of them. So
libraries compute on one thread each, and the cores share whole pieces of work of a fixed size.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on this thread alone; the setting, which each thread has its own of, is put
    back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_parallel(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """The results in the order of the items, which are taken only as fast as they are done."""
    workers = _cores()
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[_Result]] = deque()
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
