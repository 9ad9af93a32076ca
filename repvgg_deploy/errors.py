"""What the user can mend. Anything else that escapes is our own bug and keeps its traceback."""

from __future__ import annotations


class RepvggDeployError(Exception):
    """The base of all errors of this package: one sentence that names the cause and the remedy.

    ``code`` are lines of code that the sentence ends in, for the user to run.
    """

    exit_code = 1

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.sentence, self.code = sentence, code

    def __str__(self) -> str:
        return f"{self.sentence}\n{self.code}" if self.code else self.sentence


class UserError(RepvggDeployError):
    """A user mistake or a file that cannot be used: the step could not run."""


class CheckFailed(RepvggDeployError):
    """The step ran, but its result is not faithful.

    Not a UserError, so that code which goes on without what cannot be used never goes on here.
    """

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, and what torch raises in its place."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    )
