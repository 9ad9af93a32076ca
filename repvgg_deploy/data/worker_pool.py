"""torch's DataLoader over the batches of one decoder, with workers that stay."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import UserError
from .batch import Batch
from .decoder import Decoded, Decoder, Key

#: How DataLoader's own error begins when a worker has gone.
_GONE = "DataLoader worker (pid"


class WorkersEnded(UserError):
    """Processes that decode images are gone, and nothing more can come from the others."""


class _Keys:
    """What is to be decoded next; DataLoader asks for it anew in every epoch."""

    def __init__(self) -> None:
        self.todo: Sequence[Key] = ()

    def __iter__(self) -> Iterator[Key]:
        return iter(self.todo)

    def __len__(self) -> int:
        return len(self.todo)


class WorkerPool:
    """``workers`` processes that decode ahead; 0: this process decodes.

    They are not forked from this process: torch's threads, and CUDA, do not survive that. So a
    script that trains needs ``if __name__ == "__main__"``.
    """

    def __init__(self, decoder: Decoder, workers: int) -> None:
        self._keys, self._workers = _Keys(), workers
        with _any_number():
            self._loader = DataLoader[Decoded](
                decoder,
                batch_size=None,  # a key is a batch
                sampler=self._keys,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_leave_interrupts,
                multiprocessing_context=_context() if workers else None,
                generator=torch.Generator(),  # else it draws from the one of the whole process
                persistent_workers=workers > 0,
            )

    def batches(self, keys: Sequence[Key]) -> Iterator[Batch]:
        """In the order of ``keys``; what an earlier call left is dropped.

        Raises:
            UserError: an image that cannot be used, or a worker that ended.
        """
        self._keys.todo = keys
        with self._naming_lost_workers(), _signals_kept(), _interrupts_held(), _any_number():
            decoded = iter(self._loader)  # waits for workers that have stayed
        while (batch := self._next(decoded)) is not None:
            if isinstance(batch, UserError):
                raise batch
            images, labels = batch
            yield Batch(images, labels)

    def _next(self, decoded: Iterator[Decoded]) -> Decoded | None:
        with self._naming_lost_workers():
            return next(decoded, None)

    @contextmanager
    def _naming_lost_workers(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith(_GONE):
                raise
            raise WorkersEnded(
                f"--workers {self._workers}: a process that decodes images has ended (killed, or "
                "out of memory); give fewer --workers and go on with --resume."
            ) from error


def _context() -> multiprocessing.context.BaseContext:
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
    return context


def _as_it_is(decoded: Any) -> Any:
    return decoded


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C is for the process that trains, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _any_number() -> Iterator[None]:
    """torch warns of more workers than cores; how many there are is the user's choice."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


@contextmanager
def _signals_kept() -> Iterator[None]:
    """torch handles SIGCHLD from here on, for good; workers are the fork server's children, not
    ours, so that its handler would only meet other children of this process."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # one that Python did not set, and cannot
            signal.signal(signal.SIGCHLD, before)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start meanwhile begin deaf to Ctrl-C; this one hears it after."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it starts with them, and would let interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
