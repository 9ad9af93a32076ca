"""What the user can mend. Anything else that escapes is our own bug and keeps its traceback."""

from __future__ import annotations


class UserError(Exception):
    """A user mistake or bad file: one sentence that names the cause and says what to do.

    ``code`` are lines of code that the sentence ends in, for the user to run.
    """

    exit_code = 1

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.sentence, self.code = sentence, code

    def __str__(self) -> str:
        return f"{self.sentence}\n{self.code}" if self.code else self.sentence


class CheckFailed(UserError):
    """The step ran, but its result is not faithful."""

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, and what torch raises in its place."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    )
