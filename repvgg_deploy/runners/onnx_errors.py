"""What ONNX Runtime says, without the parts that speak of its own source."""

from __future__ import annotations

import re

_KIND = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
#: A file and line of its source, and the function there with its template arguments.
_PLACE = re.compile(r"\S+\.(?:cc|cpp|h|hpp):\d+ ")
_FUNCTION = re.compile(r"^[\w:<>,&*~ ]+\([^)]*\)(?: const)?(?: \[with [^]]*\])? ")
_LONGEST = 300


def in_words(error: Exception) -> str:
    """One line that speaks of the model."""
    text = _KIND.sub("", " ".join(str(error).split()))
    if place := _PLACE.search(text):
        before, after = text[: place.start()], text[place.end() :]
        condition = after.rfind(" was false. ")
        after = _FUNCTION.sub("", after) if condition < 0 else after[condition + 12 :]
        text = before + after
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
