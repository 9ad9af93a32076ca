"""Pickles read without running anything: whatever they name is looked up in a closed table.

The pickle machine itself is Python's own, so every protocol is read. What a table holds are
functions of ours that describe; a file can set the state of what it makes, and with that of a real
array, dtype or function corrupt the process, so nothing of numpy's or torch's is made before the
pickle has been read to its end.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, ClassVar

from .declared import Damaged, Refused, Sealed

_BLOCK = 1 << 20
#: Names that are longer are cut where a user reads them.
_LONGEST_NAME = 200
Table = Mapping[tuple[str, str], Callable[..., Any]]


class Named(Sealed):
    """What a name in a pickle stands for: to be called by the pickle, or passed on."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


class PlainDict(dict[Any, Any]):
    """Any kind of dict, without the attributes that a pickle gives it (_metadata, for one)."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 puts bytes into the old protocols."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Damaged("it encodes what is no text")
    return text.encode("latin1")


def _bytearray(data: bytes = b"") -> bytes:
    if not isinstance(data, bytes):  # a number would make as many zeros
        raise Damaged("it makes bytes of what is none")
    return data


def _list(items: Iterable[Any] = ()) -> list[Any]:
    return list(items)


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": _list,
    "frozenset": _list,
    "complex": complex,
    "bytearray": _bytearray,
    "bytes": _bytearray,  # no bytes, in the old protocols
}
#: What both torch's and numpy's pickles refer to.
PLAIN: Table = {
    ("collections", "OrderedDict"): PlainDict,
    ("collections", "Counter"): PlainDict,
    ("_codecs", "encode"): _encode,
    **{
        (room, name): make
        for room in ("builtins", "__builtin__")
        for name, make in _BUILTINS.items()
    },
}


class _Bounded:
    """A stream that takes no memory for bytes that it does not have."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.readline = stream, stream.readline

    def read(self, size: int) -> bytes:
        if size > _BLOCK:
            here = self._stream.tell()
            left = self._stream.seek(0, 2) - here
            self._stream.seek(here)
            if size > left:
                raise Damaged(f"it ends {size - left} bytes too early")
        return self._stream.read(size)


class Unpickler(pickle._Unpickler):
    """Python's unpickler in Python: unlike the one in C, it cannot be made to take memory by a
    number in the file (the index of a memo)."""

    # Python's own would first make as many zeros as a number in the file says.
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }

    def __init__(
        self,
        stream: BinaryIO,
        find: Callable[[str, str], Any],
        storage: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(_Bounded(stream), encoding="latin1")
        self._find, self._storage = find, storage

    def find_class(self, module: str, name: str) -> Any:
        """Raises:
        Refused: the name is not in the table.
        """
        return self._find(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or not isinstance(pid, tuple):
            raise Damaged("it refers to storages that it does not have")
        return self._storage(*pid)


def look_up(table: Table, module: str, name: str) -> Named:
    """Raises:
    Refused: the name is not in ``table``.
    """
    if (module, name) not in table:
        raise Refused(f"{module}.{name}"[:_LONGEST_NAME])
    return Named(table[module, name])
