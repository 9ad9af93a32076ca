"""What the user can mend. Anything else that escapes is our own bug and keeps its traceback."""

from __future__ import annotations


class UserError(Exception):
    """A user mistake or bad file: one sentence that names the cause and says what to do."""

    exit_code = 1


class CheckFailed(UserError):
    """The step ran, but its result is not faithful."""

    exit_code = 3
