"""Protobuf's text format, as much of it as a Triton configuration takes.

Written here, since Triton's own classes come with tritonclient and grpc, which nobody should have
to install to write a page of text; the tests parse it with those classes.
Source: protobuf.dev, "Text Format Language Specification".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Word(str):
    """An enum value, which is written without quotes."""


def render(message: Mapping[str, Any], indent: str = "") -> str:
    """One field a line. Values are strings, words, integers, booleans, messages (mappings), and
    lists of either; a list of messages repeats the field."""
    lines = []
    for field, value in message.items():
        for item in value if _is_repeated_message(value) else [value]:
            if isinstance(item, Mapping):
                body = render(item, f"{indent}  ")
                lines.append(f"{indent}{field} {{\n{body}{indent}}}\n")
            else:
                lines.append(f"{indent}{field}: {_value(item)}\n")
    return "".join(lines)


def _is_repeated_message(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word) or not isinstance(value, str):
        return str(value)
    return _quoted(value)


def _quoted(text: str) -> str:
    """Octal escapes are the one kind that all of protobuf's parsers read alike."""
    plain = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(plain)}"'
